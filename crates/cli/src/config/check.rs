//! Rules that single values cannot express.

use std::net::{AddrParseError, SocketAddr};
use std::path::PathBuf;
use std::time::UNIX_EPOCH;

use storyloom_story::VideoSpec;
use storyloom_story::video::VideoSpecError;

use super::options::{Config, Inputs, Metrics, PlannerKind, Run};
use super::value::Count;

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
    pub fn broken_rules(&self) -> Vec<(&'static str, String)> {
        let mut broken = Vec::new();
        if let Err(error) = self.video_spec().check() {
            let key = match error {
                VideoSpecError::Size { axis: "width", .. } => "video.width",
                VideoSpecError::Size { .. } => "video.height",
                VideoSpecError::Frames { .. } => "video.frames",
                VideoSpecError::Rate => "video.fps",
            };
            broken.push((key, error.to_string()));
        }
        let mut rule = |holds: bool, key: &'static str, reason: &str| {
            if !holds {
                broken.push((key, format!("{key} {reason}")));
            }
        };
        let (sampler, memory) = (&self.sampler, &self.memory);
        let steps = [sampler.steps.t2v, sampler.steps.i2v];
        let shifts = [sampler.shift.t2v, sampler.shift.i2v];
        let boundaries = [sampler.boundary.t2v, sampler.boundary.i2v];
        rule(
            steps.iter().all(|steps| (1..=1000).contains(steps)),
            "sampler.steps",
            "must be 1 to 1000",
        );
        rule(
            shifts.iter().all(|&shift| shift > 0.0),
            "sampler.shift",
            "must be above 0",
        );
        rule(
            boundaries
                .iter()
                .all(|boundary| (0.0..=1.0).contains(boundary)),
            "sampler.boundary",
            "is a share of 1, so it must be from 0 to 1",
        );
        rule(
            memory.max_images <= 102,
            "memory.max_images",
            "must be at most 102",
        );
        rule(
            memory.max_images == 0 || memory.sink <= memory.max_images,
            "memory.sink",
            "must not be larger than memory.max_images",
        );
        rule(
            memory.max_keyframes > 0,
            "memory.max_keyframes",
            "must be at least 1",
        );
        rule(
            (1..=5).contains(&memory.rope_stride),
            "memory.rope_stride",
            "must be 1 to 5",
        );
        rule(self.run.attempts > 0, "run.attempts", "must be at least 1");
        rule(
            (1..=10_000).contains(&self.planner.ahead),
            "planner.ahead",
            "must be 1 to 10000",
        );
        rule(self.run.patience > 0, "run.patience", "must be at least 1");
        rule(
            (0.0..1e9).contains(&self.checkpoint.uptime),
            "checkpoint.uptime",
            "must not be below 0",
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
        rule(self.lora.alpha >= 0.0, "lora.alpha", "must not be below 0");
        let topology = &self.topology;
        for (key, ranks) in [
            ("topology.tensor", topology.tensor),
            ("topology.sequence", topology.sequence),
            ("topology.cfg", topology.cfg),
            ("topology.interleave", topology.interleave),
            ("topology.patience", topology.patience),
        ] {
            rule(ranks >= 1, key, "must be at least 1");
        }
        rule(
            topology.replicas != Count::Exactly(0),
            "topology.replicas",
            "must be at least 1, or \"auto\"",
        );
        rule(topology.cfg <= 2, "topology.cfg", "must be 1 or 2");
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
            self.logs.progress_s >= 1,
            "logs.progress_s",
            "must be at least 1",
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
        for (key, number) in [
            ("planner.attempts", planner.attempts),
            ("planner.concurrency", planner.concurrency),
            ("planner.timeout_s", planner.timeout_s),
            ("planner.max_tokens", planner.max_tokens),
        ] {
            rule(number >= 1, key, "must be at least 1");
        }
        rule(
            (200..=4000).contains(&planner.prompt_chars),
            "planner.prompt_chars",
            "must be 200 to 4000",
        );
        rule(
            (56..=4096).contains(&planner.picture_side),
            "planner.picture_side",
            "must be 56 to 4096",
        );
        rule(
            (0.0..=2.0).contains(&planner.temperature),
            "planner.temperature",
            "must be 0 to 2",
        );
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
