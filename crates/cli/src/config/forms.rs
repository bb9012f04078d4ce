//! The forms of texts among the settings, each with the function that reads it.

use std::net::{AddrParseError, SocketAddr};
use std::num::ParseIntError;
use std::path::PathBuf;
use std::time::UNIX_EPOCH;

use super::limit::Form;
use storyloom_story::Method;
use storyloom_story::onestory::Counts;

use super::options::{EngineKind, Inputs, Metrics, Run};

/// A list of signals.
pub const SIGNALS: Form = Form {
    words: "a list of TERM, INT, HUP, USR1 and USR2",
    fits: |text| crate::signals::parse(text).is_ok(),
};

/// A point in time.
pub const TIME: Form = Form {
    words: "a time as in \"2026-11-22T06:00:00Z\", or empty",
    fits: |text| deadline(text).is_ok(),
};

/// An address of this machine.
pub const LISTEN_ADDRESS: Form = Form {
    words: "an address with a port, as in \"127.0.0.1:9464\", or empty",
    fits: |text| listen(text).is_ok(),
};

/// The address of a service without encryption.
pub const HTTP_ADDRESS: Form = Form {
    words: "an address that begins with http://, without a name or password in it, or empty",
    fits: |text| is_address(text, &["http://"]),
};

/// The address of a service.
pub const WEB_ADDRESS: Form = Form {
    words: "an address such as http://127.0.0.1:8000/v1, without a name or password in it, or empty",
    fits: |text| is_address(text, &["http://", "https://"]),
};

/// Frames for each patchifier.
pub const FRAMES_PER_KERNEL: Form = Form {
    words: "four numbers of frames, from the finest patchifier to the coarsest, as in \"0,4,0,0\", or empty",
    fits: |text| frames_per_kernel(text).is_ok(),
};

impl EngineKind {
    /// The methods that it has something loaded for.
    pub fn methods(self) -> &'static [Method] {
        match self {
            Self::Torch => &Method::WITH_NETWORKS,
            Self::Simulated => &Method::KNOWN,
        }
    }
}

impl Inputs {
    /// What the files of a manifest must lie below, if it is not its own folder.
    pub fn root(&self) -> Option<PathBuf> {
        (!self.folder.is_empty()).then(|| PathBuf::from(&self.folder))
    }
}

impl Metrics {
    /// Where to serve, if anywhere. [`LISTEN_ADDRESS`] has made sure that it can be read.
    pub fn address(&self) -> Option<SocketAddr> {
        listen(&self.listen).ok().flatten()
    }
}

impl Run {
    /// When the run is to be done, in seconds since 1970, if anybody said so. [`TIME`] has made sure
    /// that it can be read.
    pub fn deadline(&self) -> Option<f64> {
        deadline(&self.deadline).ok().flatten()
    }
}

/// Frames for each patchifier, if somebody names them.
pub fn frames_per_kernel(text: &str) -> Result<Option<Counts>, ParseIntError> {
    if text.is_empty() {
        return Ok(None);
    }
    let numbers = text.split(',').map(|number| number.trim().parse::<u32>());
    let numbers: Vec<u32> = numbers.collect::<Result<_, _>>()?;
    match <[u32; 4]>::try_from(numbers) {
        Ok(counts) => Ok(Some(Counts(counts))),
        // There are more of them, or fewer.
        Err(_) => "".parse::<u32>().map(|_| None),
    }
}

fn listen(text: &str) -> Result<Option<SocketAddr>, AddrParseError> {
    match text.is_empty() {
        true => Ok(None),
        false => text.parse().map(Some),
    }
}

fn deadline(text: &str) -> Result<Option<f64>, humantime::TimestampError> {
    if text.is_empty() {
        return Ok(None);
    }
    let at = humantime::parse_rfc3339(text)?;
    let since = at.duration_since(UNIX_EPOCH);
    Ok(Some(since.unwrap_or_default().as_secs_f64()))
}

/// Whether it is the address of a service, or empty. The config is kept in the run folder, so an
/// address has no names and passwords in it.
fn is_address(url: &str, schemes: &[&str]) -> bool {
    let rest = schemes.iter().find_map(|scheme| url.strip_prefix(scheme));
    let host = |rest: &&str| rest.split(['/', '?', '#']).next().map(str::to_owned);
    url.is_empty()
        || rest
            .as_ref()
            .and_then(host)
            .is_some_and(|host| !host.is_empty() && !host.contains('@'))
}

/// A text with the names and passwords of addresses in it left out, to be shown.
pub fn without_passwords(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("://") {
        shown.push_str(before);
        shown.push_str("://");
        let end = after.find(['/', '?', '#', ' ', '"']).unwrap_or(after.len());
        let (host, later) = after.split_at(end);
        match host.rsplit_once('@') {
            Some((_, host)) => {
                shown.push_str("***@");
                shown.push_str(host);
            }
            None => shown.push_str(host),
        }
        rest = later;
    }
    shown + rest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::load;

    #[test]
    fn passwords_of_addresses_are_refused_and_not_shown() {
        let http = ["http://"];
        assert!(is_address("http://push:9091/a@b", &http) && is_address("", &http));
        for bad in [
            "http://me:secret@push:9091",
            "http://me@push/",
            "http://",
            "push:9091",
        ] {
            assert!(!is_address(bad, &http), "{bad}");
        }
        for (text, shown) in [
            ("a=http://me:secret@push:9091/x", "a=http://***@push:9091/x"),
            (
                "http://a:p@q@h and http://b/c@d",
                "http://***@h and http://b/c@d",
            ),
            ("no address: me@here", "no address: me@here"),
        ] {
            assert_eq!(without_passwords(text), shown);
        }
    }

    #[test]
    fn a_text_of_another_form_is_refused_without_being_shown() {
        for (set, wanted) in [
            ("run.deadline=tomorrow", "run.deadline must be a time as in"),
            (
                "run.stop_signals=TERM,KILL",
                "run.stop_signals must be a list of TERM",
            ),
            (
                "metrics.listen=9464",
                "metrics.listen must be an address with a port",
            ),
            (
                "metrics.push=https://me:secret@push",
                "metrics.push must be an address that",
            ),
            (
                "logs.otlp=http://me:secret@push",
                "logs.otlp must be an address that",
            ),
            (
                "onestory.frames_per_kernel=0,4,0",
                "onestory.frames_per_kernel must be four numbers",
            ),
            (
                "planner.endpoint=ftp://x",
                "planner.endpoint must be an address such as",
            ),
        ] {
            let problems = load(None, [], &[set.to_owned()]).unwrap_err();
            let told = problems[0].to_string();
            assert!(told.contains(wanted) && !told.contains("secret"), "{told}");
        }
        let sets = ["run.deadline=2026-11-22T06:00:00Z", "metrics.listen="];
        let config = load(None, [], &sets.map(str::to_owned)).unwrap();
        assert_eq!(config.run.deadline(), Some(1_795_327_200.0));
        assert_eq!(config.metrics.address(), None);
    }
}
