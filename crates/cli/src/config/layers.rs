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
    /// The keys that no layer has set since the file did.
    of_file: BTreeSet<String>,
    problems: Vec<ConfigProblem>,
}

impl Layers {
    fn finish(mut self) -> Result<(Config, BTreeSet<String>), Vec<ConfigProblem>> {
        if self.problems.is_empty() {
            for (key, message) in self.config.broken_rules() {
                let place = self.place_of(&key);
                self.problems.push(ConfigProblem { place, message });
            }
        }
        if self.problems.is_empty() {
            Ok((self.config, self.of_file))
        } else {
            Err(self.problems)
        }
    }

    fn place_of(&self, key: &str) -> String {
        let mut places = self.places.iter().rev();
        let place = places.find(|(known, _)| known.starts_with(key));
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
            match (self.config.option(&key).is_some(), value, part.get_ref()) {
                (true, _, _) => self.assign(&key, at, |option| option.update(value)),
                (false, Value::Table(inner), DeValue::Table(inner_spans)) if is_group(&key) => {
                    self.table(&format!("{key}."), inner, inner_spans, place);
                }
                _ => self.unknown(&key, at),
            }
        }
    }

    fn environment(&mut self, variables: impl IntoIterator<Item = (String, String)>) {
        let mut variables: Vec<_> = variables.into_iter().collect();
        variables.sort();
        for (name, text) in variables {
            let place = format!("the environment variable {name}");
            match meaning(&name, &text) {
                Meaning::Option(key) => {
                    self.assign(&key, place, |option| option.update_text(&text));
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
        let (key, text) = (key.trim(), text.trim());
        if self.config.option(key).is_some() {
            return self.assign(key, place, |option| option.update_text(text));
        }
        // A part of an option, as in sampler.shift.t2v=12.
        let mut parts = key.match_indices('.').map(|(at, _)| at);
        let option = parts.find(|&at| self.config.option(&key[..at]).is_some());
        match option {
            Some(at) => {
                let table = format!("{} = {text}", &key[at + 1..]).parse::<toml::Table>();
                let value = table.map_or(Value::String(text.to_owned()), Value::Table);
                self.assign(&key[..at], place, |option| option.update(&value));
            }
            None => self.unknown(key, place),
        }
    }

    fn assign(
        &mut self,
        key: &str,
        place: String,
        update: impl FnOnce(&mut dyn OptionValue) -> Result<(), String>,
    ) {
        match self.config.option(key).map(update) {
            Some(Ok(())) => {
                self.of_file.remove(key);
                self.places.push((key.to_owned(), place));
            }
            Some(Err(expected)) => {
                let possible = possible(key);
                self.problem(place, format!("{key} {expected}{possible}"));
            }
            None => self.unknown(key, place),
        }
    }

    fn unknown(&mut self, key: &str, place: String) {
        let keys: Vec<String> = Config::options().into_iter().map(|info| info.key).collect();
        let hint = hint(key, keys.iter().map(String::as_str));
        self.problem(place, format!("there is no option {key:?}{hint}"));
    }
}

fn hint<'k>(key: &str, known: impl IntoIterator<Item = &'k str>) -> String {
    nearest(key, known).map_or_else(String::new, |near| format!("; did you mean {near:?}?"))
}

/// What a number may be, where the option is one.
fn possible(key: &str) -> String {
    let info = Config::options().into_iter().find(|info| info.key == key);
    match info.and_then(|info| info.limit) {
        Some(Limit::Numbers(bounds)) => format!("; {bounds} are possible"),
        _ => String::new(),
    }
}

fn is_group(key: &str) -> bool {
    let prefix = format!("{key}.");
    let mut options = Config::options().into_iter();
    options.any(|info| info.key.starts_with(&prefix))
}

fn line_of(text: &str, at: usize) -> usize {
    text.bytes().take(at).filter(|&byte| byte == b'\n').count() + 1
}

#[cfg(test)]
mod tests {
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
            "c.toml:3: video.width must be a whole number from 0, but is the text \"wide\"; 16 to 4096 are possible"
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
            file("[memory]\nsink = 11")
                .unwrap_err()
                .contains("c.toml:2: memory.sink must not be larger")
        );
        assert!(
            file("[topology]\ntensor = 0")
                .unwrap_err()
                .contains("c.toml:2: topology.tensor must be 1 to 1024, but is 0")
        );
    }

    #[test]
    fn values_per_phase_are_merged() {
        let text = "[sampler]\nshift = { t2v = 12, i2v = 5 }\n[sampler.steps]\ni2v = 7";
        let config = all(
            text,
            &[("STORYLOOM_SAMPLER_GUIDANCE", "{ high = 4 }")],
            &["sampler.shift.i2v=4"],
        )
        .unwrap();
        let sampler = &config.sampler;
        assert_eq!((sampler.shift.t2v, sampler.shift.i2v), (12.0, 4.0));
        assert_eq!((sampler.steps.t2v, sampler.steps.i2v), (40, 7));
        assert_eq!(
            (sampler.guidance.t2v.high, sampler.guidance.t2v.low),
            (4.0, 3.5)
        );
        assert!(
            all("", &[], &["sampler.shift.t3v=4"])
                .unwrap_err()
                .contains("\"t2v\"")
        );
    }
}
