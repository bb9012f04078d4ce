//! Rules that single values cannot express.

use std::net::{AddrParseError, SocketAddr};
use std::path::PathBuf;
use std::time::UNIX_EPOCH;

use storyloom_story::VideoSpec;
use storyloom_story::video::VideoSpecError;

use super::options::{Config, Inputs, Metrics, OptionInfo, PlannerKind, Run};

impl Inputs {
    /// What the files of a manifest must lie below, if it is not its own folder.
    pub fn root(&self) -> Option<PathBuf> {
        (!self.folder.is_empty()).then(|| PathBuf::from(&self.folder))
    }
}

impl Metrics {
    /// Where to serve, if anywhere.
    ///
    /// # Errors
    /// The text is no address.
    pub fn address(&self) -> Result<Option<SocketAddr>, AddrParseError> {
        match self.listen.is_empty() {
            true => Ok(None),
            false => self.listen.parse().map(Some),
        }
    }
}

impl Run {
    /// When the run is to be done, in seconds since 1970, if anybody said so.
    ///
    /// # Errors
    /// The text is no time.
    pub fn deadline(&self) -> Result<Option<f64>, humantime::TimestampError> {
        if self.deadline.is_empty() {
            return Ok(None);
        }
        let at = humantime::parse_rfc3339(&self.deadline)?;
        let since = at.duration_since(UNIX_EPOCH);
        Ok(Some(since.unwrap_or_default().as_secs_f64()))
    }
}

impl Config {
    /// The video every shot is asked to be.
    pub fn video_spec(&self) -> VideoSpec {
        VideoSpec {
            width: self.video.width,
            height: self.video.height,
            frames: self.video.frames,
            fps: self.video.fps,
        }
    }

    /// The options whose values cannot work, with the reason.
    pub fn broken_rules(&self) -> Vec<(String, String)> {
        let mut broken = self.out_of_bounds();
        if broken.is_empty() {
            let rules = self.broken_combinations().into_iter();
            broken.extend(rules.map(|(key, message)| (key.to_owned(), message)));
        }
        broken
    }

    /// The numbers that are outside of their bounds.
    fn out_of_bounds(&self) -> Vec<(String, String)> {
        let mut copy = self.clone();
        let mut broken = Vec::new();
        for OptionInfo { key, bounds, .. } in Self::options() {
            let numbers = copy.option(&key).map(|option| option.numbers());
            let wrong = bounds.zip(numbers).and_then(|(bounds, numbers)| {
                let wrong = numbers.into_iter().find(|&number| bounds.refuse(number))?;
                Some(format!("{key} must be {bounds}, but is {wrong}"))
            });
            broken.extend(wrong.map(|message| (key, message)));
        }
        broken
    }

    /// Rules that bounds of single numbers cannot express.
    fn broken_combinations(&self) -> Vec<(&'static str, String)> {
        let mut broken = Vec::new();
        if let Err(error) = self.video_spec().check() {
            let key = match error {
                VideoSpecError::Size { axis: "width", .. } => "video.width",
                VideoSpecError::Size { .. } => "video.height",
                VideoSpecError::Frames { .. } => "video.frames",
                VideoSpecError::Rate => "video.fps",
                VideoSpecError::Pixels { .. } => "video.frames",
            };
            broken.push((key, error.to_string()));
        }
        let mut rule = |holds: bool, key: &'static str, reason: &str| {
            if !holds {
                broken.push((key, format!("{key} {reason}")));
            }
        };
        let (sampler, memory) = (&self.sampler, &self.memory);
        let shifts = [sampler.shift.t2v, sampler.shift.i2v];
        rule(
            shifts.iter().all(|&shift| shift > 0.0),
            "sampler.shift",
            "must be above 0",
        );
        rule(
            memory.max_images == 0 || memory.sink <= memory.max_images,
            "memory.sink",
            "must not be larger than memory.max_images",
        );
        for (key, list) in [
            ("run.stop_signals", &self.run.stop_signals),
            ("run.drain_signals", &self.run.drain_signals),
        ] {
            let known = crate::signals::parse(list).is_ok();
            rule(known, key, "is a list of TERM, INT, HUP, USR1 and USR2");
        }
        rule(
            self.simulated.speed > 0.0,
            "simulated.speed",
            "must be above 0",
        );
        let topology = &self.topology;
        rule(
            !(topology.share_decode && topology.decoders > 0),
            "topology.share_decode",
            "is for denoisers that decode: set topology.decoders = 0",
        );
        rule(
            self.metrics.address().is_ok(),
            "metrics.listen",
            "is an address with a port, as in \"127.0.0.1:9464\", or empty",
        );
        rule(
            is_address(&self.metrics.push, &["http://"]),
            "metrics.push",
            "is an address that begins with http://, without a name or password in it, or empty",
        );
        rule(self.metrics.stall > 0.0, "metrics.stall", "must be above 0");
        rule(
            self.run.deadline().is_ok(),
            "run.deadline",
            "is a time as in \"2026-11-22T06:00:00Z\", or empty",
        );
        rule(
            is_address(&self.logs.otlp, &["http://"]),
            "logs.otlp",
            "is an address such as http://localhost:4318, without a name or password in it",
        );
        rule(
            self.topology.planner_tensor <= 1 || self.planner.backend == PlannerKind::Native,
            "topology.planner_tensor",
            "needs planner.backend = \"native\": other planners have no model to share",
        );
        let planner = &self.planner;
        rule(
            planner.top_p > 0.0 && planner.top_p <= 1.0,
            "planner.top_p",
            "must be above 0 and at most 1",
        );
        rule(
            is_address(&planner.endpoint, &["http://", "https://"]),
            "planner.endpoint",
            "is an address such as http://127.0.0.1:8000/v1, without a name or password in it",
        );
        broken
    }
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

    /// Whatever an option takes as a number, it refuses numbers that no machine could work with.
    #[test]
    fn every_number_has_bounds_and_is_refused_beyond_them() {
        let mut numbers = 0;
        for OptionInfo { key, bounds, .. } in Config::options() {
            let mut config = Config::default();
            let described = config.option(&key).map(|option| option.describe());
            if !described.is_some_and(|described| described.contains("number")) {
                assert!(bounds.is_none(), "{key}");
                continue;
            }
            numbers += 1;
            assert!(bounds.is_some(), "{key} has no bounds");
            // A seed is a number and no size.
            let highest = if key == "run.seed" {
                i128::from(i64::MAX)
            } else {
                1 << 62
            };
            for huge in [
                highest + 1,
                i128::from(i64::MAX),
                i128::from(u64::MAX),
                1 << 100,
                -(1 << 40),
            ] {
                if huge <= highest && huge > 0 {
                    continue;
                }
                let set = format!("{key}={huge}");
                let problems = load(None, [], &[set]).unwrap_err();
                assert!(problems[0].message.contains(&key), "{problems:?}");
            }
        }
        assert!(numbers > 40, "{numbers}");
    }

    #[test]
    fn a_number_out_of_bounds_is_told_with_both() {
        for (set, wanted) in [
            (
                "video.width=5000",
                "video.width must be 16 to 4096, but is 5000",
            ),
            (
                "video.height=2",
                "video.height must be 16 to 4096, but is 2",
            ),
            (
                "sampler.steps.i2v=0",
                "sampler.steps must be 1 to 1000, but is 0",
            ),
            ("topology.cfg=3", "topology.cfg must be 1 or 2, but is 3"),
            (
                "lora.alpha=-0.5",
                "lora.alpha must be 0 to 1000000, but is -0.5",
            ),
            (
                "video.frames=4294967295",
                "video.frames must be 1 to 4097, but is 4294967295",
            ),
            (
                "planner.top_k=4294967296",
                "planner.top_k must be a whole number from 0, but is the number 4294967296; \
                 0 to 1000000 are possible",
            ),
        ] {
            let problems = load(None, [], &[set.to_owned()]).unwrap_err();
            assert_eq!(problems[0].message, wanted);
        }
        // Each side and the length are possible, and all together are too much.
        let sets = ["video.width=4096", "video.height=4096", "video.frames=4097"];
        let problems = load(None, [], &sets.map(str::to_owned)).unwrap_err();
        let said = &problems[0].message;
        assert!(
            said.contains("68736253952") && said.contains("2147483648"),
            "{said}"
        );
        let sets = ["video.width=4096", "video.height=4096"];
        assert!(load(None, [], &sets.map(str::to_owned)).is_ok());
    }

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
}
