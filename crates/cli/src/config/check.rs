//! What makes settings unusable: values beyond the limits of their options, and rules between options.

use storyloom_engine::method::onestory::{Backend, MemorySource};
use storyloom_story::VideoSpec;
use storyloom_story::onestory::Selector;
use storyloom_story::video::VideoSpecError;

use super::options::{Config, OptionInfo, PlannerKind};

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
        let mut broken = self.beyond_limits();
        if broken.is_empty() {
            let rules = self.broken_combinations().into_iter();
            broken.extend(rules.map(|(key, message)| (key.to_owned(), message)));
        }
        broken
    }

    /// The values that the limits of their options refuse.
    fn beyond_limits(&self) -> Vec<(String, String)> {
        let mut copy = self.clone();
        let mut broken = Vec::new();
        for OptionInfo { key, limit, .. } in Self::options() {
            let refusal = limit
                .zip(copy.option(&key))
                .and_then(|(limit, option)| limit.refusal(option));
            broken.extend(refusal.map(|reason| (key.clone(), format!("{key} {reason}"))));
        }
        broken
    }

    /// Rules between options.
    fn broken_combinations(&self) -> Vec<(&'static str, String)> {
        let mut broken = Vec::new();
        if let Err(error) = self.video_spec().check(self.latent_grid()) {
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
        let (storymem, topology) = (&self.storymem, &self.topology);
        rule(
            storymem.max_images == 0 || storymem.sink <= storymem.max_images,
            "storymem.sink",
            "must not be larger than storymem.max_images",
        );
        rule(
            !(topology.share_decode && topology.decoders > 0),
            "topology.share_decode",
            "is for denoisers that decode: set topology.decoders = 0",
        );
        rule(
            topology.planner_tensor <= 1 || self.planner.backend == PlannerKind::Native,
            "topology.planner_tensor",
            "needs planner.backend = \"native\": other planners have no model to share",
        );
        let backend = self.onestory.backend;
        rule(
            backend != Backend::StoryMemInject || self.onestory.selector != Selector::Clip,
            "onestory.selector",
            "= \"clip\" keeps what CLIP and DINOv2 see of each shot, which onestory.backend = \"storymem-inject\" does \
             not: use recent or uniform",
        );
        rule(
            backend == Backend::OneStory || self.onestory.selector != Selector::Learned,
            "onestory.selector",
            &format!(
                "= \"learned\" needs weights that were trained, which onestory.backend = \"{}\" has not: use \
                 recent or uniform",
                backend.name()
            ),
        );
        let is_plain = self.onestory.memory_source == MemorySource::Latent;
        rule(
            backend != Backend::StoryMemInject || is_plain,
            "onestory.memory_source",
            "must be \"latent\" with onestory.backend = \"storymem-inject\"",
        );
        let (method, kind) = (self.top.method, self.top.engine);
        rule(
            kind.methods().contains(&method),
            "method",
            &format!(
                "= \"{method}\" has no networks in this version: rehearse it with engine = \
                 \"simulated\", or use method = \"storymem\" or \"onestory\""
            ),
        );
        broken
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::limit::Limit;
    use crate::config::load;

    /// Whatever an option takes as a number, it refuses numbers that no machine could work with.
    #[test]
    fn every_number_has_bounds_and_is_refused_beyond_them() {
        let mut numbers = 0;
        for OptionInfo { key, limit, .. } in Config::options() {
            let mut config = Config::default();
            let described = config.option(&key).map(|option| option.describe());
            if !described.is_some_and(|described| described.contains("number")) {
                assert!(!matches!(limit, Some(Limit::Numbers(_))), "{key}");
                continue;
            }
            numbers += 1;
            assert!(
                matches!(limit, Some(Limit::Numbers(_))),
                "{key} has no bounds"
            );
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
    fn what_nobody_has_trained_is_refused_by_name() {
        let said = |sets: &[&str]| {
            let sets: Vec<String> = sets.iter().map(|&set| set.to_owned()).collect();
            let problems = load(None, [], &sets).unwrap_err();
            problems[0].message.clone()
        };
        for name in ["wan14b-untrained", "wan1.3b-fun", "storymem-inject"] {
            let backend = format!("onestory.backend={name}");
            assert!(said(&[&backend]).contains(name));
            let with = |selector: &str| [backend.clone(), format!("onestory.selector={selector}")];
            assert!(load(None, [], &with("uniform")).is_ok(), "{name}");
            // Pictures are compared where they are kept.
            assert_eq!(
                load(None, [], &with("clip")).is_ok(),
                name != "storymem-inject"
            );
        }
        assert!(load(None, [], &["onestory.selector=clip".to_owned()]).is_ok());
        let sets = ["onestory.backend=storymem-inject", "onestory.selector=clip"];
        assert!(said(&sets).contains("DINOv2"), "{}", said(&sets));
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
                "storymem.steps.i2v=0",
                "storymem.steps must be 1 to 1000, but is 0",
            ),
            (
                "storymem.shift.t2v=0",
                "storymem.shift must be above 0 and at most 1000, but is 0",
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
                "planner.top_k must be a whole number, 0 to 1000000, but is the number 4294967296",
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
}
