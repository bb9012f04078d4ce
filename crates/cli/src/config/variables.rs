//! Which variables of the environment are options.
//!
//! Others name variables like ours as well: Kubernetes gives every pod some for each service of its
//! namespace, and a service called `storyloom` makes `STORYLOOM_PORT=tcp://…`; people export names
//! of their own. None of them may stop a run. What is nearly the name of an option is a mistake.

use storyloom_parallel::discovery::{LAUNCHER, RENDEZVOUS, TOKEN};
use storyloom_story::nearest;
use strsim::damerau_levenshtein;

use super::options::Config;

/// The environment variable with the token of `POST /drain`.
pub const METRICS_TOKEN: &str = "STORYLOOM_METRICS_TOKEN";
/// The environment variable with the key of the API of `planner.endpoint`.
pub const PLANNER_KEY: &str = "STORYLOOM_PLANNER_KEY";
/// The environment variable with the filter of log lines.
pub const LOG: &str = "STORYLOOM_LOG";
const PREFIX: &str = "STORYLOOM_";

/// Names that this program reads and that are no options.
const NOT_OPTIONS: [&str; 6] = [LAUNCHER, LOG, METRICS_TOKEN, PLANNER_KEY, RENDEZVOUS, TOKEN];
/// Names that the files of this project have for other programs: the folder of the run in
/// `monitoring/compose.yml` and the image in `launch/kubernetes`.
const OF_OTHER_PROGRAMS: [&str; 2] = ["STORYLOOM_RUN", "STORYLOOM_IMAGE"];

/// What a variable is to the config.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Meaning {
    /// It sets the option that is, or was, called so.
    Option(String),
    /// Nearly the name of something that this program reads, which is given.
    Mistake(String),
    /// It looks like ours and is nothing that is known; the nearest name that is, if any.
    Stray(Option<String>),
    /// It is read elsewhere, or meant for others.
    Nothing,
}

/// The environment variable of an option: `video.width` is `STORYLOOM_VIDEO_WIDTH`.
pub(super) fn variable(key: &str) -> String {
    format!("{PREFIX}{}", key.to_uppercase().replace('.', "_"))
}

/// What the variable `name` with the value `value` means.
pub(super) fn meaning(name: &str, value: &str) -> Meaning {
    let Some(own) = name.strip_prefix(PREFIX) else {
        return Meaning::Nothing;
    };
    let options = Config::options();
    let formers = options.iter().filter_map(|info| info.former);
    let present = options.iter().map(|info| info.key.as_str());
    let keys: Vec<&str> = present.chain(formers).collect();
    if let Some(key) = keys.iter().find(|key| variable(key) == name) {
        return Meaning::Option((*key).to_owned());
    }
    let is_known = NOT_OPTIONS.contains(&name) || OF_OTHER_PROGRAMS.contains(&name);
    if is_known || is_of_service(own, value) {
        return Meaning::Nothing;
    }
    let known: Vec<String> = keys
        .iter()
        .map(|key| variable(key))
        .chain(NOT_OPTIONS.map(str::to_owned))
        .map(|known| known[PREFIX.len()..].to_owned())
        .collect();
    let full = |own: &str| format!("{PREFIX}{own}");
    match nearest(own, known.iter().map(String::as_str)) {
        Some(near) if is_slip(own, near) => Meaning::Mistake(full(near)),
        near => Meaning::Stray(near.map(full)),
    }
}

/// Whether a name differs from another by so few letters that it was meant to be it.
fn is_slip(name: &str, meant: &str) -> bool {
    let forgiven = match meant.len() {
        0..=5 => 1,
        6..=14 => 2,
        _ => 3,
    };
    damerau_levenshtein(&name.to_uppercase(), meant) <= forgiven
}

/// Whether Kubernetes names a variable so for a service whose name begins like ours, or Docker for
/// a linked container.
fn is_of_service(name: &str, value: &str) -> bool {
    let name = format!("_{name}");
    let is_port = |text: &str| {
        let mut words = text.split('_');
        let number = words.next().is_some_and(|word| word.parse::<u16>().is_ok());
        let protocol = words
            .next()
            .is_some_and(|word| ["TCP", "UDP", "SCTP"].contains(&word));
        let part = words
            .next()
            .is_none_or(|word| ["PROTO", "PORT", "ADDR"].contains(&word));
        number && protocol && part && words.next().is_none()
    };
    let mut ports = name.match_indices("_PORT");
    name.ends_with("_SERVICE_HOST")
        || name.ends_with("_SERVICE_PORT")
        || name.contains("_SERVICE_PORT_")
        || (name.ends_with("_PORT") && value.contains("://"))
        || ports.any(|(at, mark)| {
            let rest = name[at + mark.len()..].strip_prefix('_');
            rest.is_some_and(is_port)
        })
}

/// One line about each variable that looks like ours and is not known.
pub fn strays(environment: &[(String, String)]) -> Vec<String> {
    let mut lines: Vec<String> = environment
        .iter()
        .filter_map(|(name, value)| match meaning(name, value) {
            Meaning::Stray(near) => {
                let hint = near.map_or_else(String::new, |near| format!("; did you mean {near}?"));
                Some(format!(
                    "the environment variable {name} is no option and changes nothing{hint}"
                ))
            }
            _ => None,
        })
        .collect();
    lines.sort();
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_kubernetes_names_is_not_ours() {
        for (name, value) in [
            ("PORT", "tcp://10.3.0.9:9464"),
            ("PORT", "udp://10.3.0.9:53"),
            ("SERVICE_HOST", "10.3.0.9"),
            ("SERVICE_PORT", "9464"),
            ("SERVICE_PORT_METRICS", "9464"),
            ("PORT_9464_TCP", "tcp://10.3.0.9:9464"),
            ("PORT_9464_TCP_PROTO", "tcp"),
            ("PORT_9464_TCP_PORT", "9464"),
            ("PORT_9464_TCP_ADDR", "10.3.0.9"),
            ("METRICS_PORT", "tcp://10.3.0.9:9464"),
            ("METRICS_SERVICE_HOST", "fd00::9"),
            ("METRICS_PORT_9464_SCTP_ADDR", "10.3.0.9"),
            ("PLANNER_VLLM_SERVICE_PORT_HTTP", "8000"),
            // A service whose name ends like a port.
            ("PORT_PORT_80_TCP", "tcp://10.3.0.9:80"),
        ] {
            let full = format!("{PREFIX}{name}");
            assert_eq!(meaning(&full, value), Meaning::Nothing, "{full}={value}");
        }
        let not = |name, value| assert_ne!(meaning(name, value), Meaning::Nothing, "{name}");
        not("STORYLOOM_PORT", "9464");
        not("STORYLOOM_PORT_X_TCP", "1");
        not("STORYLOOM_PORT_80_HTTP", "1");
    }

    #[test]
    fn no_option_has_the_form_of_a_service() {
        for info in Config::options() {
            let name = variable(&info.key);
            assert!(!is_of_service(&name[PREFIX.len()..], "tcp://x"), "{name}");
            assert_eq!(meaning(&name, "tcp://x"), Meaning::Option(info.key));
        }
    }

    #[test]
    fn slips_are_mistakes_and_other_names_are_not() {
        for (name, meant) in [
            ("STORYLOOM_VIDEO_WIDHT", "STORYLOOM_VIDEO_WIDTH"),
            ("STORYLOOM_ENGIN", "STORYLOOM_ENGINE"),
            ("STORYLOOM_VIDEOWIDTH", "STORYLOOM_VIDEO_WIDTH"),
            ("STORYLOOM_STORYMEN_SNIK", "STORYLOOM_STORYMEM_SINK"),
            ("STORYLOOM_LOGS", LOG),
            ("STORYLOOM_PLANNER_KEYS", PLANNER_KEY),
            ("STORYLOOM_METRICS_TOKN", METRICS_TOKEN),
            // A number is no address of a service.
            ("STORYLOOM_METRICS_PORT", "STORYLOOM_METRICS_HOST"),
        ] {
            let found = meaning(name, "9464");
            assert_eq!(found, Meaning::Mistake(meant.to_owned()), "{name}");
        }
        for name in ["HOME", "CONFIG", "MODELS", "VERSION", "PORT", "DATA", "OUT"] {
            let full = format!("{PREFIX}{name}");
            assert!(matches!(meaning(&full, "x"), Meaning::Stray(_)), "{full}");
        }
        for name in ["HOME", "STORYLOOM", "STORYLOOM_RUN", "STORYLOOM_IMAGE", LOG] {
            assert_eq!(meaning(name, "x"), Meaning::Nothing, "{name}");
        }
    }

    #[test]
    fn strays_are_told_with_what_may_be_meant() {
        let environment = [
            ("STORYLOOM_SEED", "7"),
            ("STORYLOOM_RUN", "/run"),
            ("HOME", "/"),
        ];
        let environment = environment.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let told = strays(&environment);
        assert_eq!(told.len(), 1);
        assert!(told[0].contains("STORYLOOM_SEED is no option"), "{told:?}");
    }

    #[test]
    fn names_are_unambiguous() {
        let options = Config::options();
        let keys = options.iter().map(|info| info.key.as_str());
        let formers = options.iter().filter_map(|info| info.former);
        let mut names: Vec<_> = keys.chain(formers).map(variable).collect();
        names.extend(NOT_OPTIONS.map(str::to_owned));
        names.extend(OF_OTHER_PROGRAMS.map(str::to_owned));
        let count = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), count);
    }

    #[test]
    fn a_slip_in_a_former_name_is_a_mistake_as_well() {
        for (slip, meant) in [
            ("STORYLOOM_RUN_PATIENSE", "STORYLOOM_RUN_PATIENCE"),
            ("STORYLOOM_MEMORY_MAX_IMAGE", "STORYLOOM_MEMORY_MAX_IMAGES"),
        ] {
            assert_eq!(meaning(slip, "3"), Meaning::Mistake(meant.to_owned()));
        }
    }
}
