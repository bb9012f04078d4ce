//! What a set of checkpoints for StoryMem is made of, and what of it is missing.
//!
//! Only names and headers are looked at, so that everything that is wrong can be told at once,
//! before anything is loaded.

use std::path::Path;

use storyloom_models::scorer::AestheticHead;
use storyloom_models::tiny::folders;
use storyloom_nn::checkpoint::component_folder;
use storyloom_nn::error::ModelError;
use storyloom_nn::lora::LoraSettings;

use super::denoise::has_one_expert;
use super::paths::StoryMemPaths;
use crate::method::wan;
use crate::method::wan::adapters::AdaptedExpert;
use crate::method::wan::parts::{Part, Published, component, problem_of, tokenizer};

/// Every part that is needed of the set at `paths`.
pub fn storymem_parts(paths: &StoryMemPaths, lora: LoraSettings) -> Vec<Part> {
    let mut parts = experts(folders::TEXT_TO_VIDEO, &paths.text_to_video);
    let mut shared = (folders::TEXT_TO_VIDEO, paths.text_to_video.as_path());
    if let Some(folder) = &paths.image_to_video {
        parts.extend(experts(folders::IMAGE_TO_VIDEO, folder));
        shared = (folders::IMAGE_TO_VIDEO, folder);
    }
    let (pipeline, folder) = shared;
    parts.push(component(
        pipeline,
        folder,
        "vae",
        "pictures to latents and back",
    ));
    parts.push(component(
        pipeline,
        folder,
        "text_encoder",
        "what prompts mean",
    ));
    parts.push(tokenizer(pipeline, folder));
    if let Some(clip) = &paths.clip {
        parts.push(Part {
            name: folders::CLIP.to_owned(),
            purpose: "CLIP ViT-B/32, tells keyframes apart",
            place: clip.clone(),
            problem: problem_of(clip),
        });
    }
    if let Some(folder) = &paths.aesthetic {
        parts.extend(predictor(folder));
    }
    if let (Some(folder), Some(pipeline)) = (&paths.lora, &paths.image_to_video) {
        parts.extend(adapters(folder, pipeline, lora));
    }
    parts
}

/// The transformers of a pipeline: two, unless its index says that it has one.
fn experts(pipeline: &str, folder: &Path) -> Vec<Part> {
    let high = component(pipeline, folder, "transformer", "its high-noise expert");
    let low = component(pipeline, folder, "transformer_2", "its low-noise expert");
    let is_only = !low.place.is_dir() && has_one_expert(folder).unwrap_or(false);
    match is_only {
        true => vec![high],
        false => vec![high, low],
    }
}

/// Tower and head of the predictor of quality, which must fit each other.
fn predictor(folder: &Path) -> [Part; 2] {
    let clip = AestheticHead::check_clip(folder);
    let head = AestheticHead::check_head(folder, clip.as_ref().ok().copied());
    let part = |name: &str, purpose, place: &str, problem: Option<String>| Part {
        name: format!("{}/{name}", folders::AESTHETIC),
        purpose,
        place: folder.join(place),
        problem,
    };
    let said = |error: ModelError| error.to_string();
    [
        part(
            "clip",
            "CLIP ViT-L/14, sees how good a frame is",
            AestheticHead::CLIP,
            clip.err().map(said),
        ),
        part(
            "head",
            "LAION's predictor, says how good it is",
            AestheticHead::HEAD,
            head.err().map(said),
        ),
    ]
}

fn adapters(folder: &Path, pipeline: &Path, settings: LoraSettings) -> Vec<Part> {
    let is_there = |expert: AdaptedExpert| component_folder(pipeline, expert.component()).is_dir();
    let is_only = !is_there(AdaptedExpert::Low);
    let experts = AdaptedExpert::ALL.into_iter();
    let needed = experts.filter(|expert| *expert == AdaptedExpert::High || is_there(*expert));
    let part = |expert: AdaptedExpert| {
        let (place, problem) = wan::parts::adapter(folder, expert, is_only, settings);
        Part {
            name: format!("lora/{}", expert.name()),
            purpose: "teaches the expert to look at memory",
            place,
            problem,
        }
    };
    needed.map(part).collect()
}

/// What a person should know who has a set at `dir` in which something is missing.
pub fn advice(dir: &Path, parts: &[Part]) -> Vec<String> {
    let published = Published {
        holds: &format!(
            "{}, {} and {}",
            folders::TEXT_TO_VIDEO,
            folders::IMAGE_TO_VIDEO,
            folders::CLIP
        ),
        pipelines: &PIPELINES,
    };
    let mut lines = wan::parts::advice(dir, parts, &published);
    let is_broken =
        |part: &Part| part.problem.is_some() && part.name.starts_with(folders::AESTHETIC);
    if parts.iter().any(is_broken) {
        lines.push(format!(
            "storymem.scorer = \"aesthetic\" needs {}; storymem.scorer = \"rule\" needs nothing",
            dir.join(folders::AESTHETIC).display()
        ));
    }
    lines.push("docs/checkpoints.md says where to get every part and where it lies".to_owned());
    lines
}

/// The pipelines of a set and the repositories that they are published in.
const PIPELINES: [(&str, &str); 2] = [
    (folders::TEXT_TO_VIDEO, "Wan-AI/Wan2.2-T2V-A14B-Diffusers"),
    (folders::IMAGE_TO_VIDEO, "Wan-AI/Wan2.2-I2V-A14B-Diffusers"),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::method::storymem::storymem_paths;
    use storyloom_models::tiny::init_tiny;
    use storyloom_story::{Method, Seed};

    const SETTINGS: LoraSettings = LoraSettings {
        merge: true,
        ..LoraSettings::AS_FILES_SAY
    };

    fn tiny() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        init_tiny(folder.path(), Method::StoryMem, Seed(3)).unwrap();
        folder
    }

    fn look(dir: &Path) -> (Vec<String>, Vec<String>) {
        let parts = storymem_parts(&storymem_paths(dir, Some(dir.join("lora"))), SETTINGS);
        let missing = parts.iter().filter(|part| part.problem.is_some());
        let missing = missing.map(|part| part.name.clone()).collect();
        (missing, advice(dir, &parts))
    }

    #[test]
    fn a_whole_set_has_every_part() {
        let folder = tiny();
        let paths = storymem_paths(folder.path(), Some(folder.path().join("lora")));
        let parts = storymem_parts(&paths, SETTINGS);
        assert!(parts.iter().all(|part| part.problem.is_none()), "{parts:?}");
        let names: Vec<_> = parts.iter().map(|part| part.name.as_str()).collect();
        assert_eq!(names.len(), 10, "{names:?}");
        // Without memory the parts that it alone needs are not among them.
        let alone = StoryMemPaths {
            image_to_video: None,
            clip: None,
            ..paths
        };
        let parts = storymem_parts(&alone, SETTINGS);
        let names: Vec<_> = parts.iter().map(|part| part.name.as_str()).collect();
        let wanted = [
            "transformer",
            "transformer_2",
            "vae",
            "text_encoder",
            "tokenizer",
        ];
        assert_eq!(names, wanted.map(|name| format!("t2v/{name}")));
        assert!(parts.iter().all(|part| part.problem.is_none()), "{parts:?}");
    }

    #[test]
    fn everything_that_is_missing_is_told_at_once() {
        let folder = tiny();
        for name in ["i2v/vae", "i2v/tokenizer", "t2v/transformer_2", "clip"] {
            std::fs::remove_dir_all(folder.path().join(name)).unwrap();
        }
        std::fs::remove_file(folder.path().join("lora/backbone_low_noise.safetensors")).unwrap();
        let (missing, lines) = look(folder.path());
        let wanted = [
            "t2v/transformer_2",
            "i2v/vae",
            "i2v/tokenizer",
            "clip",
            "lora/backbone_low_noise",
        ];
        assert_eq!(missing, wanted);
        assert_eq!(lines.len(), 1, "{lines:?}");
    }

    #[test]
    fn the_predictor_of_quality_is_looked_at_where_it_is_asked_for() {
        let folder = tiny();
        let aesthetic = folder.path().join(folders::AESTHETIC);
        let paths = StoryMemPaths {
            aesthetic: Some(aesthetic.clone()),
            ..storymem_paths(folder.path(), None)
        };
        let look = || {
            let parts = storymem_parts(&paths, SETTINGS);
            let broken = parts
                .iter()
                .filter_map(|part| Some((part.name.clone(), part.problem.clone()?)));
            (
                broken.collect::<Vec<_>>(),
                advice(folder.path(), &parts).join("\n"),
            )
        };
        assert_eq!(look().0, []);
        std::fs::remove_dir_all(&aesthetic).unwrap();
        let (broken, lines) = look();
        let names: Vec<&str> = broken.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["aesthetic/clip", "aesthetic/head"]);
        assert!(
            broken[0].1.contains("openai/clip-vit-large-patch14"),
            "{broken:?}"
        );
        assert!(lines.contains("storymem.scorer = \"rule\""), "{lines}");
    }

    #[test]
    fn the_original_layout_is_known_by_sight() {
        let folder = tiny();
        let i2v = folder.path().join("i2v");
        let rename = |from: &str, to: &str| std::fs::rename(i2v.join(from), i2v.join(to)).unwrap();
        rename("transformer", "high_noise_model");
        rename("transformer_2", "low_noise_model");
        std::fs::create_dir(i2v.join("google")).unwrap();
        rename("tokenizer", "google/umt5-xxl");
        // The experts and the tokenizer are used as they are.
        assert_eq!(look(folder.path()).0, Vec::<String>::new());
        std::fs::remove_dir_all(i2v.join("vae")).unwrap();
        std::fs::write(i2v.join("Wan2.1_VAE.pth"), "PK").unwrap();
        let (missing, lines) = look(folder.path());
        assert_eq!(missing, ["i2v/vae"]);
        let said = lines.join("\n");
        assert!(
            said.contains("original layout of Wan (its pickles Wan2.1_VAE.pth"),
            "{said}"
        );
        assert!(said.contains("Wan2.2-I2V-A14B-Diffusers"), "{said}");
    }

    #[test]
    fn folders_that_are_something_else_are_named() {
        let folder = tiny();
        let (missing, lines) = look(&folder.path().join("i2v"));
        assert!(missing.len() >= 9, "{missing:?}");
        assert!(lines[0].contains("is a pipeline itself"), "{lines:?}");
        let nowhere = folder.path().join("nowhere");
        assert!(look(&nowhere).1[0].contains("there is no folder"));
        let other = folder.path().join("Wan2.2-T2V-A14B-Diffusers");
        std::fs::rename(folder.path().join("t2v"), other).unwrap();
        let said = look(folder.path()).1.join("\n");
        assert!(
            said.contains("T2V-A14B-Diffusers may be what is wanted: call it t2v"),
            "{said}"
        );
    }
}
