//! Reading the layers of a config: file, environment, `--set`.

use std::collections::BTreeSet;
use std::fmt;

use storyloom_story::nearest;
use toml::Value;
use toml::de::{DeTable, DeValue};

use super::forms::without_passwords;
use super::limit::Limit;
use super::options::Config;
use super::value::OptionValue;
use super::variables::{Meaning, meaning};

/// Something that makes a config unusable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigProblem {
    /// The file with its line, the environment variable, or the `--set`.
    pub place: String,
    /// What is wrong, and what to do.
    pub message: String,
}

impl fmt::Display for ConfigProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.message)
    }
}

/// Lays `file` (its name and text), `environment` and `sets` over the defaults.
///
/// # Errors
/// Every unknown key with the nearest known one, every value of a wrong type, and every broken
/// rule, each with the place it came from. Of the environment only names that are nearly those of
/// options count as unknown keys.
pub fn load(
    file: Option<(&str, &str)>,
    environment: impl IntoIterator<Item = (String, String)>,
    sets: &[String],
) -> Result<Config, Vec<ConfigProblem>> {
    load_layers(file, environment, sets).map(|(config, _)| config)
}

/// As [`load`], with the options that were last set by the file.
///
/// # Errors
/// As [`load`].
pub fn load_layers(
    file: Option<(&str, &str)>,
    environment: impl IntoIterator<Item = (String, String)>,
    sets: &[String],
) -> Result<(Config, BTreeSet<String>), Vec<ConfigProblem>> {
    let mut layers = Layers::default();
    if let Some((name, text)) = file {
        layers.file(name, text);
    }
    layers.of_file = layers.places.iter().map(|(key, _)| key.clone()).collect();
    layers.environment(environment);
    for set in sets {
        layers.set(set);
    }
    layers.finish()
}

#[derive(Default)]
struct Layers {
    config: Config,
    /// Which layer each key was last set by.
    places: Vec<(String, String)>,
    /// What the layer that is being read has set.
    of_layer: BTreeSet<String>,
    /// The keys that no layer has set since the file did.
    of_file: BTreeSet<String>,
    problems: Vec<ConfigProblem>,
}

impl Layers {
    fn finish(mut self) -> Result<(Config, BTreeSet<String>), Vec<ConfigProblem>> {
        if self.problems.is_empty() {
            for (key, message) in self.config.broken_rules() {
                let place = self.place_of(&key, &message);
                self.problems.push(ConfigProblem { place, message });
            }
        }
        if self.problems.is_empty() {
            Ok((self.config, self.of_file))
        } else {
            Err(self.problems)
        }
    }

    /// The layer that has set `key`, or else another option that the `message` names with its table: of a rule
    /// between options the other one may be that which was set.
    fn place_of(&self, key: &str, message: &str) -> String {
        let last = |is_meant: &dyn Fn(&str) -> bool| {
            let mut places = self.places.iter().rev();
            places.find(|(known, _)| is_meant(known))
        };
        let own = last(&|known| known.starts_with(key));
        let place = own.or_else(|| last(&|known| known.contains('.') && message.contains(known)));
        place.map_or_else(|| "the defaults".to_owned(), |(_, place)| place.clone())
    }

    fn problem(&mut self, place: impl Into<String>, message: impl Into<String>) {
        self.problems.push(ConfigProblem {
            place: place.into(),
            message: message.into(),
        });
    }

    fn file(&mut self, name: &str, text: &str) {
        match (DeTable::parse(text), text.parse::<toml::Table>()) {
            (Ok(spans), Ok(table)) => {
                let place = |at: usize| format!("{name}:{}", line_of(text, at));
                self.table("", &table, spans.get_ref(), &place);
            }
            (Err(error), _) | (_, Err(error)) => {
                let line = error.span().map_or(1, |span| line_of(text, span.start));
                self.problem(format!("{name}:{line}"), error.message());
            }
        }
    }

    fn table(
        &mut self,
        prefix: &str,
        table: &toml::Table,
        spans: &DeTable<'_>,
        place: &dyn Fn(usize) -> String,
    ) {
        for (name, part) in spans.iter() {
            let key = format!("{prefix}{}", name.get_ref());
            let at = place(name.span().start);
            let Some(value) = table.get(name.get_ref().as_ref()) else {
                continue;
            };
            match (Config::key_now(&key), value, part.get_ref()) {
                (Some(_), ..) => self.assign_once(&key, at, |option| option.update(value)),
                (None, Value::Table(inner), DeValue::Table(inner_spans)) if is_group(&key) => {
                    self.table(&format!("{key}."), inner, inner_spans, place);
                }
                _ => self.unknown(&key, at),
            }
        }
    }

    fn environment(&mut self, variables: impl IntoIterator<Item = (String, String)>) {
        self.of_layer.clear();
        let mut variables: Vec<_> = variables.into_iter().collect();
        variables.sort();
        for (name, text) in variables {
            let place = format!("the environment variable {name}");
            match meaning(&name, &text) {
                Meaning::Option(key) => {
                    self.assign_once(&key, place, |option| option.update_text(&text));
                }
                Meaning::Mistake(meant) => {
                    self.problem(place, format!("is no option; did you mean {meant:?}?"));
                }
                Meaning::Stray(_) | Meaning::Nothing => {}
            }
        }
    }

    fn set(&mut self, set: &str) {
        let place = format!("--set {}", without_passwords(set));
        let Some((key, text)) = set.split_once('=') else {
            return self.problem(place, "must be of the form key=value");
        };
        // Blanks are part of a text that stands right behind the sign, as in settings that a run has noted.
        let text = match key.ends_with(char::is_whitespace) {
            true => text.trim(),
            false => text,
        };
        let key = key.trim();
        if Config::key_now(key).is_some() {
            return self.assign(key, place, |option| option.update_text(text));
        }
        // A part of an option, as in sampler.shift.t2v=12.
        let mut parts = key.match_indices('.').map(|(at, _)| at);
        let option = parts.find(|&at| Config::key_now(&key[..at]).is_some());
        match option {
            Some(at) => {
                let table = format!("{} = {text}", &key[at + 1..]).parse::<toml::Table>();
                let value = table.map_or(Value::String(text.trim().to_owned()), Value::Table);
                self.assign(&key[..at], place, |option| option.update(&value));
            }
            None => self.unknown(key, place),
        }
    }

    /// As [`assign`](Self::assign), in a layer that names each option once: by its present key or by its
    /// former one.
    fn assign_once(
        &mut self,
        key: &str,
        place: String,
        update: impl FnOnce(&mut dyn OptionValue) -> Result<(), String>,
    ) {
        let now = Config::key_now(key).unwrap_or_default();
        if self.of_layer.insert(now.clone()) {
            return self.assign(key, place, update);
        }
        let message = format!("{now} is set twice, once by its former name; leave one out");
        self.problem(place, message);
    }

    fn assign(
        &mut self,
        key: &str,
        place: String,
        update: impl FnOnce(&mut dyn OptionValue) -> Result<(), String>,
    ) {
        let Some(now) = Config::key_now(key) else {
            return self.unknown(key, place);
        };
        match self.config.option(&now).map(update) {
            Some(Ok(())) => {
                self.of_file.remove(&now);
                self.places.push((now, place));
            }
            Some(Err(expected)) => {
                let name = match key == now {
                    true => now.clone(),
                    false => format!("{now}, formerly {key},"),
                };
                self.problem(place, format!("{name} {}", within(&now, &expected)));
            }
            None => self.unknown(key, place),
        }
    }

    fn unknown(&mut self, key: &str, place: String) {
        let options = Config::options();
        let formers = options.iter().filter_map(|info| info.former);
        let known = options.iter().map(|info| info.key.as_str()).chain(formers);
        // A former key that was meant is told as the present one.
        let meant = nearest(key, known).and_then(Config::key_now);
        let hint = meant.map_or_else(String::new, |meant| format!("; did you mean {meant:?}?"));
        self.problem(place, format!("there is no option {key:?}{hint}"));
    }
}

/// What an option expects instead of a value of another type, with its bounds where it is a number: "must
/// be a whole number, 16 to 4096, but is …".
fn within(key: &str, expected: &str) -> String {
    let info = Config::options().into_iter().find(|info| info.key == key);
    let limit = info.and_then(|info| info.limit);
    match (limit, expected.split_once(", but is ")) {
        (Some(Limit::Numbers(bounds)), Some((kind, found))) => {
            format!("{kind}, {bounds}, but is {found}")
        }
        _ => expected.to_owned(),
    }
}

fn is_group(key: &str) -> bool {
    let prefix = format!("{key}.");
    let mut options = Config::options().into_iter();
    options.any(|info| {
        let former = info.former.unwrap_or_default();
        info.key.starts_with(&prefix) || former.starts_with(&prefix)
    })
}

fn line_of(text: &str, at: usize) -> usize {
    text.bytes().take(at).filter(|&byte| byte == b'\n').count() + 1
}

#[cfg(test)]
mod tests {
    use storyloom_models::sampler::SamplerKind;
    use storyloom_orchestrator::folder::recorded::FORMER_KEYS;

    use super::*;

    fn file(text: &str) -> Result<Config, String> {
        all(text, &[], &[])
    }

    fn all(text: &str, environment: &[(&str, &str)], sets: &[&str]) -> Result<Config, String> {
        let environment = environment
            .iter()
            .map(|&(k, v)| (k.to_owned(), v.to_owned()));
        let sets: Vec<String> = sets.iter().map(|&set| set.to_owned()).collect();
        load(Some(("c.toml", text)), environment, &sets).map_err(|problems| {
            let lines: Vec<_> = problems.iter().map(ToString::to_string).collect();
            lines.join("\n")
        })
    }

    #[test]
    fn later_layers_win() {
        let text = "[video]\nwidth = 64\nheight = 64\nfps = 8";
        let environment = [
            ("STORYLOOM_VIDEO_HEIGHT", "96"),
            ("STORYLOOM_VIDEO_FPS", "9"),
            ("HOME", "/"),
        ];
        let config = all(text, &environment, &["video.fps=10", "device = cpu"]).unwrap();
        let video = &config.video;
        assert_eq!(
            (video.width, video.height, video.fps, video.frames),
            (64, 96, 10, 81)
        );
        assert_eq!(config.top.device, crate::config::options::Device::Cpu);
    }

    #[test]
    fn unknown_keys_name_the_nearest_in_every_layer() {
        for (text, wanted) in [
            (
                "[video]\nwidht = 64",
                "c.toml:2: there is no option \"video.widht\"; did you mean \"video.width\"?",
            ),
            (
                "\nmethods = 'x'",
                "c.toml:2: there is no option \"methods\"; did you mean \"method\"?",
            ),
            ("[zebra]\nx = 1", "c.toml:1: there is no option \"zebra\""),
            (
                "top.method = 'storymem'",
                "c.toml:1: there is no option \"top\"",
            ),
        ] {
            assert_eq!(file(text).unwrap_err(), wanted);
        }
        assert_eq!(
            all("", &[("STORYLOOM_VIDEO_WIDHT", "64")], &[]).unwrap_err(),
            "the environment variable STORYLOOM_VIDEO_WIDHT: is no option; did you mean \"STORYLOOM_VIDEO_WIDTH\"?"
        );
        assert_eq!(
            all("", &[], &["vido.width=64"]).unwrap_err(),
            "--set vido.width=64: there is no option \"vido.width\"; did you mean \"video.width\"?"
        );
        assert!(
            all("", &[], &["video.width"])
                .unwrap_err()
                .contains("key=value")
        );
    }

    #[test]
    fn wrong_types_name_file_line_and_key() {
        assert_eq!(
            file("[video]\n\nwidth = \"wide\"").unwrap_err(),
            "c.toml:3: video.width must be a whole number, 16 to 4096, but is the text \"wide\""
        );
        assert_eq!(
            file("engine = 'torhc'").unwrap_err(),
            "c.toml:1: engine must be \"torch\" or \"simulated\", but is the text \"torhc\" (did you mean \"torch\"?)"
        );
        assert!(
            file("video = 3")
                .unwrap_err()
                .starts_with("c.toml:1: there is no option \"video\"")
        );
        assert!(
            file("[video\nwidth = 3")
                .unwrap_err()
                .starts_with("c.toml:1: ")
        );
        let both = file("[run]\nseed = -1\nthreads = true").unwrap_err();
        assert_eq!(both.lines().count(), 2, "{both}");
    }

    #[test]
    fn broken_rules_name_the_layer() {
        let found = all("[video]\nwidth = 64", &[], &["video.frames=80"]).unwrap_err();
        assert_eq!(
            found,
            "--set video.frames=80: video.frames = 80 must be 4n + 1; the nearest is 81"
        );
        assert!(
            file("[storymem]\nsink = 11")
                .unwrap_err()
                .contains("c.toml:2: storymem.sink must not be larger")
        );
        assert!(
            file("[topology]\ntensor = 0")
                .unwrap_err()
                .contains("c.toml:2: topology.tensor must be 1 to 1024, but is 0")
        );
    }

    /// The other option of a rule is at its default, and has not caused the refusal.
    #[test]
    fn broken_rules_between_options_name_the_layer_of_the_one_that_is_set() {
        let set = "onestory.backend=wan14b-untrained";
        let found = all("[video]\nwidth = 64", &[], &[set]).unwrap_err();
        assert!(
            found.starts_with(&format!("--set {set}: onestory.selector = \"learned\"")),
            "{found}"
        );
    }

    #[test]
    fn values_per_phase_are_merged() {
        let text = "[storymem]\nshift = { t2v = 12, i2v = 5 }\n[storymem.steps]\ni2v = 7";
        let config = all(
            text,
            &[("STORYLOOM_STORYMEM_GUIDANCE", "{ high = 4 }")],
            &["storymem.shift.i2v=4"],
        )
        .unwrap();
        let sampler = &config.storymem;
        assert_eq!((sampler.shift.t2v, sampler.shift.i2v), (12.0, 4.0));
        assert_eq!((sampler.steps.t2v, sampler.steps.i2v), (40, 7));
        assert_eq!(
            (sampler.guidance.t2v.high, sampler.guidance.t2v.low),
            (4.0, 3.5)
        );
        assert!(
            all("", &[], &["storymem.shift.t3v=4"])
                .unwrap_err()
                .contains("\"t2v\"")
        );
    }

    /// Files, variables and command lines of earlier builds mean what they meant.
    #[test]
    fn former_keys_mean_the_present_ones_in_every_layer() {
        let mut formers = 0;
        for info in Config::options() {
            let Some(former) = info.former else { continue };
            formers += 1;
            assert_eq!(Config::key_now(former), Some(info.key.clone()));
            assert!(Config::default().option(former).is_none(), "{former}");
        }
        assert_eq!(formers, FORMER_KEYS.len());
        for (now, former) in FORMER_KEYS {
            assert_eq!(Config::key_now(former).as_deref(), Some(now), "{former}");
        }

        let text = "[sampler]\nname = 'euler'\nshift = { t2v = 9 }\n[sampler.steps]\ni2v = 7\n\
                    [memory]\nsink = 2\nbackend = 'redb'\n[run]\npatience = 5";
        let environment = [
            ("STORYLOOM_MEMORY_MAX_IMAGES", "4"),
            ("STORYLOOM_TOPOLOGY_PATIENCE", "9"),
        ];
        let config = all(text, &environment, &["sampler.boundary.i2v=0.5"]).unwrap();
        let storymem = &config.storymem;
        assert_eq!(storymem.solver, SamplerKind::Euler);
        assert_eq!((storymem.shift.t2v, storymem.shift.i2v), (9.0, 4.0));
        assert_eq!((storymem.steps.t2v, storymem.steps.i2v), (40, 7));
        assert_eq!((storymem.sink, storymem.max_images), (2, 4));
        assert_eq!(storymem.boundary.i2v, 0.5);
        let timeouts = (config.run.lease_timeout, config.topology.collective_timeout);
        assert_eq!(timeouts, (5, 9));
        // It is written down by the present keys.
        let again = file(&config.to_toml()).unwrap();
        assert_eq!(again, config);
        assert!(!config.to_toml().contains("[sampler]"));
    }

    #[test]
    fn a_journal_that_tells_no_lease_timeout_is_read_with_the_default() {
        let default = storyloom_telemetry::liveness::Liveness::LEASE_TIMEOUT_S;
        assert_eq!(Config::default().run.lease_timeout, default);
    }

    #[test]
    fn an_option_is_not_set_by_both_of_its_keys() {
        let said = file("[memory]\nsink = 1\n[storymem]\nsink = 2").unwrap_err();
        assert!(said.contains("storymem.sink is set twice"), "{said}");
        assert!(said.starts_with("c.toml:"), "{said}");
        // Another layer may have the other, and the same command line too.
        let sets = ["memory.sink=2", "storymem.sink=3", "memory.sink=1"];
        let config = all("[storymem]\nsink = 4", &[], &sets).unwrap();
        assert_eq!(config.storymem.sink, 1);
        let said = all("", &[], &["memroy.sink=2"]).unwrap_err();
        assert!(said.contains("did you mean \"storymem.sink\"?"), "{said}");
        let said = file("[memory]\nsink = 'x'").unwrap_err();
        assert!(
            said.contains("storymem.sink, formerly memory.sink, must be a whole number, "),
            "{said}"
        );
        for (value, wanted) in [
            (
                "-1",
                "run.lease_timeout, formerly run.patience, must be a whole number, 1 to 31536000, but is the number -1",
            ),
            ("0", "run.lease_timeout must be 1 to 31536000, but is 0"),
        ] {
            let said = all("", &[("STORYLOOM_RUN_PATIENCE", value)], &[]).unwrap_err();
            let place = "the environment variable STORYLOOM_RUN_PATIENCE";
            assert_eq!(said, format!("{place}: {wanted}"));
        }
    }
}
