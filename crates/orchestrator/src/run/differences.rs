//! What of the settings of a run is not what it was, in the words of its user: by the names that options
//! have, with both values.

use std::collections::BTreeSet;

use serde_json::Value;
use storyloom_story::Method;

use crate::engine::EngineDescription;
use crate::folder::recorded::recorded;
use crate::folder::run_folder::RunFile;

/// Settings that decide what an engine makes.
const ENGINE_SETTINGS: [&str; 13] = [
    "engine",
    "models.dtype",
    "lora.alpha",
    "lora.scaling",
    "lora.merge",
    "storymem.boundary",
    "storymem.guidance",
    "storymem.negative_prompt",
    "storymem.reference",
    "storymem.shift",
    "storymem.solver",
    "storymem.steps",
    "storymem.rope_stride",
];

/// Settings that decide what an engine makes of OneStory.
const ONESTORY_ENGINE_SETTINGS: [&str; 12] = [
    "onestory.backend",
    "onestory.ctx_stride",
    "onestory.ctx_time",
    "onestory.ctx_timestep",
    "onestory.guidance",
    "onestory.memory_source",
    "onestory.negative_prompt",
    "onestory.reference",
    "onestory.score_norm",
    "onestory.shift",
    "onestory.solver",
    "onestory.steps",
];

/// Settings that decide what a shot of OneStory sees.
const ONESTORY_MEMORY_SETTINGS: [&str; 3] = [
    "onestory.budget",
    "onestory.frames_per_kernel",
    "onestory.selector",
];

/// Settings that have another name in a run's identity than as options.
const OPTIONS: [(&str, &str); 8] = [
    ("memory.continuation", "storymem.continuation"),
    ("memory.window.max_images", "storymem.max_images"),
    ("memory.window.sink", "storymem.sink"),
    ("memory.selection.rule", "storymem.selection"),
    ("memory.selection.max_keyframes", "storymem.max_keyframes"),
    (
        "memory.selection.similarity_start",
        "storymem.similarity_start",
    ),
    (
        "memory.selection.quality_threshold",
        "storymem.quality_threshold",
    ),
    ("videos", "simulated.videos"),
];

/// Everything that decides the results of a run and is another in `now` than in `before`.
pub(crate) fn differences(before: &RunFile, now: &RunFile) -> Vec<String> {
    let mut differences = Vec::new();
    if before.engine.fingerprint != now.engine.fingerprint {
        differences.extend(engine_difference(before, now));
    }
    let [old, new] = [before, now].map(|run| Value::Object(run.identity.settings()));
    let keys = [&old, &new].into_iter().filter_map(Value::as_object);
    let mut leaves = Vec::new();
    for key in keys.flat_map(|map| map.keys()).collect::<BTreeSet<_>>() {
        different_leaves(key, &old[key], &new[key], &mut leaves);
    }
    let as_option = |leaf: Leaf| {
        let option = OPTIONS.iter().find(|(name, _)| *name == leaf.name);
        let name = option.map_or(leaf.name.as_str(), |(_, option)| *option);
        // As somebody wrote them: the identity has numbers as they are computed with.
        match [before, now].map(|run| recorded(&run.config, name)) {
            [Some(old), Some(new)] if old != new => told(name, old, new),
            _ => told(name, &leaf.old, &leaf.new),
        }
    };
    differences.extend(leaves.into_iter().map(as_option));
    differences.extend(other_terms(before, now));
    differences
}

/// The methods of both starts of which something is another. What decides the run's own stands in the rest
/// of its file, which was compared; a method that only one of them has is no difference.
fn other_terms(before: &RunFile, now: &RunFile) -> Vec<String> {
    let own = now.identity.method();
    let mut others = Vec::new();
    for (method, new) in &now.methods {
        let Some(old) = before.terms(*method) else {
            continue;
        };
        if *method != own {
            let [was, is] = [&old, new].map(|terms| &terms.engine.fingerprint);
            if was != is {
                others.push(format!("the engine of {method} (was {was}, is {is})"));
            }
            others.extend(other_weights(&old.engine, &new.engine));
        }
        if old.memory != new.memory {
            others.extend(memory_differences(*method, before, now));
        }
        if old.record_format != new.record_format {
            others.push(format!("the format of the records of {method}"));
        }
    }
    others
}

/// What makes a method remember otherwise: its settings, where the records have them.
fn memory_differences(method: Method, before: &RunFile, now: &RunFile) -> Vec<String> {
    let settings: &[&str] = match method {
        Method::OneStory => &ONESTORY_MEMORY_SETTINGS,
        _ => &[],
    };
    let named = different_settings(settings, &before.config, &now.config);
    match named.is_empty() {
        true => vec![format!("what {method} remembers")],
        false => named,
    }
}

/// The settings that both configs have, with other values.
fn different_settings(settings: &[&str], before: &Value, now: &Value) -> Vec<String> {
    let mut leaves = Vec::new();
    for key in settings {
        let [old, new] = [before, now].map(|config| recorded(config, key));
        if let (Some(old), Some(new)) = (old, new) {
            different_leaves(key, old, new, &mut leaves);
        }
    }
    // A setting that an older build did not know has not changed.
    leaves.retain(|leaf| !leaf.old.is_null());
    let leaves = leaves.iter();
    leaves
        .map(|leaf| told(&leaf.name, &leaf.old, &leaf.new))
        .collect()
}

fn told(name: &str, old: &Value, new: &Value) -> String {
    format!("{name} (was {old}, is {new})")
}

/// What makes the engine another one, as far as the records know it: settings, the quality score, a
/// checkpoint or an adapter. `None` if it is only what a shot remembers, which is named of its own.
fn engine_difference(before: &RunFile, now: &RunFile) -> Option<String> {
    let mut named = different_settings(&ENGINE_SETTINGS, &before.config, &now.config);
    if now.identity.method() == Method::OneStory {
        named.extend(different_settings(
            &ONESTORY_ENGINE_SETTINGS,
            &before.config,
            &now.config,
        ));
    }
    // Earlier builds had Pillow's only and did not write it down.
    let resize = |run: &RunFile| -> Value {
        let noted = recorded(&run.config, "storymem.selection_resize");
        noted.cloned().unwrap_or_else(|| "pillow".into())
    };
    let [old, new] = [before, now].map(resize);
    if old != new {
        named.push(told("storymem.selection_resize", &old, &new));
    }
    let [old, new] = [before, now].map(|run| &run.engine.quality_score);
    if old != new {
        named.push(format!("the quality score (was {old}, is {new})"));
    }
    named.extend(other_weights(&before.engine, &now.engine));
    match named.is_empty() {
        true if is_of_memory(before, now) => None,
        true => Some("the engine (weights, sampler or precision)".to_owned()),
        false => Some(format!("the engine: {}", named.join(", "))),
    }
}

/// Whether shots of a run of OneStory remember otherwise, which makes another engine of it as well.
fn is_of_memory(before: &RunFile, now: &RunFile) -> bool {
    let method = Method::OneStory;
    let [old, new] = [before, now].map(|run| run.terms(method).map(|terms| terms.memory));
    now.identity.method() == method && old.is_some() && old != new
}

/// The checkpoints and adapters that are not the same.
fn other_weights(before: &EngineDescription, now: &EngineDescription) -> Vec<String> {
    let digest = |engine: &EngineDescription, name: &str| {
        let mut models = engine.models.iter();
        let found = models.find(|(known, _)| known == name);
        found.map(|(_, digest)| digest.clone())
    };
    let names = before
        .models
        .iter()
        .chain(&now.models)
        .map(|(name, _)| name);
    let changed = names
        .collect::<BTreeSet<_>>()
        .into_iter()
        .filter_map(|name| match (digest(before, name), digest(now, name)) {
            (Some(old), Some(new)) if old == new => None,
            (Some(_), Some(_)) => Some(format!("{name} has another content")),
            (None, _) => Some(format!("{name} was not there")),
            (_, None) => Some(format!("{name} is not there")),
        });
    changed.collect()
}

/// A single value that is not what it was; `null` where there is none.
#[derive(Debug, PartialEq)]
struct Leaf {
    name: String,
    old: Value,
    new: Value,
}

/// The values at `key` that differ. A value stands for all below it: `steps = 6` is the same as
/// `steps = { t2v = 6, i2v = 6 }`.
fn different_leaves(key: &str, old: &Value, new: &Value, leaves: &mut Vec<Leaf>) {
    let below = |value: &Value| value.as_object().map(|map| map.keys().cloned().collect());
    let names: [Option<BTreeSet<String>>; 2] = [below(old), below(new)];
    let at = |value: &Value, name: &String| match value {
        Value::Object(map) => map.get(name).cloned().unwrap_or_default(),
        value => value.clone(),
    };
    match names {
        [None, None] if old == new => {}
        [None, None] => leaves.push(Leaf {
            name: key.to_owned(),
            old: old.clone(),
            new: new.clone(),
        }),
        names => {
            let names: BTreeSet<String> = names.into_iter().flatten().flatten().collect();
            for name in names {
                let below = format!("{key}.{name}");
                different_leaves(&below, &at(old, &name), &at(new, &name), leaves);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn leaves(old: &Value, new: &Value) -> Vec<String> {
        let mut leaves = Vec::new();
        different_leaves("sampler", old, new, &mut leaves);
        let leaves = leaves.iter();
        leaves
            .map(|leaf| told(&leaf.name, &leaf.old, &leaf.new))
            .collect()
    }

    #[test]
    fn single_values_are_named() {
        let old = json!({"name": "unipc", "steps": 6, "shift": {"t2v": 3.0, "i2v": 5.0}});
        assert!(leaves(&old, &old).is_empty());
        let same = json!({"name": "unipc", "steps": {"t2v": 6, "i2v": 6}, "shift": {"t2v": 3.0, "i2v": 5.0}});
        assert!(leaves(&old, &same).is_empty(), "written otherwise");
        let new = json!({"name": "euler", "steps": {"t2v": 4, "i2v": 6}, "shift": 3.0});
        let expected = [
            r#"sampler.name (was "unipc", is "euler")"#,
            "sampler.shift.i2v (was 5.0, is 3.0)",
            "sampler.steps.t2v (was 6, is 4)",
        ];
        assert_eq!(leaves(&old, &new), expected);
    }

    #[test]
    fn settings_of_both_configs_are_named_where_they_differ() {
        let named = |old: Value, new: Value| {
            different_settings(
                &ONESTORY_MEMORY_SETTINGS,
                &json!({ "onestory": old }),
                &json!({ "onestory": new }),
            )
        };
        let old = json!({"budget": 1, "selector": "learned", "steps": 6});
        let new = json!({"budget": 2, "selector": "learned", "steps": 7});
        assert_eq!(
            named(old.clone(), new.clone()),
            ["onestory.budget (was 1, is 2)"]
        );
        assert!(named(old.clone(), old.clone()).is_empty());
        // What only one of them has is no difference.
        assert!(named(json!({}), new).is_empty());
    }

    #[test]
    fn what_is_missing_on_one_side_is_null() {
        let (old, new) = (json!({}), json!({"guidance": 2}));
        assert_eq!(leaves(&old, &new), ["sampler.guidance (was null, is 2)"]);
        assert_eq!(leaves(&new, &old), ["sampler.guidance (was 2, is null)"]);
    }
}
