//! Settings as runs have written them down: earlier builds had other keys for some.

use serde_json::Value;

/// The keys of options, and those that earlier builds wrote for the same.
pub const FORMER_KEYS: [(&str, &str); 19] = [
    ("run.lease_timeout", "run.patience"),
    ("storymem.solver", "sampler.name"),
    ("storymem.steps", "sampler.steps"),
    ("storymem.shift", "sampler.shift"),
    ("storymem.guidance", "sampler.guidance"),
    ("storymem.boundary", "sampler.boundary"),
    ("storymem.reference", "sampler.reference"),
    ("storymem.negative_prompt", "sampler.negative_prompt"),
    ("storymem.max_images", "memory.max_images"),
    ("storymem.sink", "memory.sink"),
    ("storymem.selection", "memory.selection"),
    ("storymem.selection_resize", "memory.selection_resize"),
    ("storymem.max_keyframes", "memory.max_keyframes"),
    ("storymem.similarity_start", "memory.similarity_start"),
    ("storymem.scorer", "memory.scorer"),
    ("storymem.quality_threshold", "memory.quality_threshold"),
    ("storymem.continuation", "memory.continuation"),
    ("storymem.rope_stride", "memory.rope_stride"),
    ("topology.collective_timeout", "topology.patience"),
];

/// What the settings of a run, as `run.json` has them, say of the option `key`; of an older run, by the
/// key that it had then.
pub fn recorded<'a>(settings: &'a Value, key: &str) -> Option<&'a Value> {
    let at = |key: &str| settings.pointer(&format!("/{}", key.replace('.', "/")));
    let mut all = FORMER_KEYS.iter();
    let former = || {
        all.find(|(now, _)| *now == key)
            .and_then(|(_, was)| at(was))
    };
    at(key).or_else(former)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_earlier_builds_wrote_is_found_by_the_present_key() {
        let old =
            json!({"sampler": {"steps": {"t2v": 4, "i2v": 6}}, "run": {"patience": 7, "seed": 1}});
        assert_eq!(
            recorded(&old, "storymem.steps"),
            Some(&json!({"t2v": 4, "i2v": 6}))
        );
        assert_eq!(recorded(&old, "run.lease_timeout"), Some(&json!(7)));
        assert_eq!(recorded(&old, "run.seed"), Some(&json!(1)));
        assert_eq!(recorded(&old, "storymem.sink"), None);
        let both = json!({"sampler": {"steps": 4}, "storymem": {"steps": 5}});
        assert_eq!(recorded(&both, "storymem.steps"), Some(&json!(5)));
    }
}
