//! Weights that are not OneStory's: plain pipelines of Wan, with and without an image branch, and StoryMem's
//! experts.

use std::fs;
use std::path::Path;

use storyloom_models::tiny::{folders, init_tiny};
use storyloom_models::wan::{WanConfig, WanTransformer};
use storyloom_nn::testing::{fill_checkpoint, golden};
use storyloom_story::onestory::Selector;
use storyloom_story::{HostTensor, Method, Seed};

use super::parts::onestory_parts;
use super::replicas_test::{Made, error, make, open, settings, stories, tiny};
use super::{Backend, InjectConditions, InjectEngine, OneStoryEngine, onestory_paths};
use crate::method::storymem::replicas_test::settings as storymem_settings;
use crate::method::storymem::storymem_paths;
use crate::replica::Replica;

/// Nobody has trained the patchifiers of the tiny set: they are what those of a plain pipeline begin with.
#[test]
fn a_plain_pipeline_of_wan_sees_what_patchifiers_begin_with() {
    let folder = tiny();
    let of = |backend: Backend| {
        open(folder.path(), |settings| {
            settings.backend = backend;
            settings.selector = Selector::Recent;
        })
    };
    let trained = of(Backend::OneStory);
    let [.., inputs] = stories();
    let expected = make(&trained, &inputs);
    fs::remove_dir_all(folder.path().join("onestory/onestory")).unwrap();
    let plain = of(Backend::Wan14bUntrained);
    let found = make(&plain, &inputs);
    assert_eq!(found.scores, expected.scores);
    assert_eq!(found.latents, expected.latents);
    assert_ne!(plain.identity().fingerprint, trained.identity().fingerprint);
    let learned = open(folder.path(), |settings| {
        settings.backend = Backend::Wan13bFun;
    });
    let said = learned.scores(&inputs).unwrap_err().to_string();
    assert!(said.contains("Recent, Uniform"), "{said}");
}

const WITH_IMAGE: &str = r#"{"_class_name": "WanTransformer3DModel", "patch_size": [1, 2, 2],
    "num_attention_heads": 4, "attention_head_dim": 24, "in_channels": 36, "out_channels": 16,
    "text_dim": 64, "freq_dim": 256, "ffn_dim": 96, "num_layers": 2, "cross_attn_norm": true,
    "qk_norm": "rms_norm_across_heads", "eps": 1e-6, "image_dim": 24, "added_kv_proj_dim": 96,
    "pos_embed_seq_len": null}"#;

/// Gives the pipeline in `folder` a transformer as Wan2.1 I2V has it, and the tower that it needs.
fn with_image_branch(folder: &Path) {
    let pipeline = folder.join(folders::ONESTORY);
    let transformer = pipeline.join("transformer");
    fs::remove_dir_all(&transformer).unwrap();
    fs::create_dir(&transformer).unwrap();
    let config: WanConfig = serde_json::from_str(WITH_IMAGE).unwrap();
    fill_checkpoint(&transformer, WITH_IMAGE, 0.08, |weights| {
        WanTransformer::load(weights, config.clone()).map(drop)
    });
    let (from, to) = (
        golden("clip-h14").join("image_encoder"),
        pipeline.join("image_encoder"),
    );
    fs::create_dir(&to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

/// Wan2.1 I2V attends to tokens of an image in every shot: the first one's in the first shot, a black one's in
/// all others.
#[test]
fn a_transformer_with_an_image_branch_sees_the_first_image_or_a_black_one() {
    let folder = tiny();
    with_image_branch(folder.path());
    let engine = open(folder.path(), |_| {});
    let [text, image, history] = stories().map(|inputs| make(&engine, &inputs));
    assert!(error(&image.latents, &text.latents) > 1e-4);
    assert_ne!(history.latents, text.latents);
    let parts: Vec<&str> = engine
        .identity()
        .digests
        .iter()
        .map(|(name, _)| name.as_str())
        .collect();
    assert!(parts.contains(&"onestory/image_encoder"), "{parts:?}");
    fs::remove_dir_all(folder.path().join("onestory/image_encoder")).unwrap();
    let paths = onestory_paths(folder.path(), None);
    let missing = OneStoryEngine::open(&paths, &settings(), Replica::alone());
    let said = missing.unwrap_err().to_string();
    assert!(said.contains("image_encoder"), "{said}");
}

/// An adapter changes what is made and what it is, and one that is not clear is refused.
#[test]
fn an_adapter_of_the_transformer_is_applied_and_named() {
    let (folder, others) = (tiny(), tempfile::tempdir().unwrap());
    init_tiny(others.path(), Method::StoryMem, Seed(1)).unwrap();
    let lora = folder.path().join("adapter");
    fs::create_dir(&lora).unwrap();
    let file = others.path().join("lora/backbone_high_noise.safetensors");
    fs::copy(file, lora.join("only.safetensors")).unwrap();
    let with = |lora: Option<&Path>| {
        let paths = onestory_paths(folder.path(), lora.map(Path::to_owned));
        OneStoryEngine::open(&paths, &settings(), Replica::alone())
    };
    let (plain, adapted) = (with(None).unwrap(), with(Some(&lora)).unwrap());
    let [text, ..] = stories();
    let difference = error(&make(&adapted, &text).latents, &make(&plain, &text).latents);
    assert!(difference > 1e-3, "{difference}");
    assert_ne!(plain.identity().fingerprint, adapted.identity().fingerprint);
    let last = &adapted.identity().digests.last().unwrap().0;
    assert_eq!(last, "lora");
    fs::copy(
        lora.join("only.safetensors"),
        lora.join("second.safetensors"),
    )
    .unwrap();
    assert!(with(Some(&lora)).is_err());
}

/// The original release of Wan2.1 has its only transformer in the folder of the pipeline itself.
#[test]
fn the_transformer_may_lie_where_the_original_release_has_it() {
    let folder = tiny();
    let [.., inputs] = stories();
    let expected = make(&open(folder.path(), |_| {}), &inputs);
    let pipeline = folder.path().join(folders::ONESTORY);
    for entry in fs::read_dir(pipeline.join("transformer")).unwrap() {
        let entry = entry.unwrap();
        fs::rename(entry.path(), pipeline.join(entry.file_name())).unwrap();
    }
    fs::remove_dir(pipeline.join("transformer")).unwrap();
    let found = make(&open(folder.path(), |_| {}), &inputs);
    assert_eq!(found.latents, expected.latents);
    let parts = onestory_parts(
        &onestory_paths(folder.path(), None),
        (Backend::OneStory, Selector::Learned),
        settings().lora,
    );
    assert!(parts.iter().all(|part| part.problem.is_none()), "{parts:?}");
}

fn inject(folder: &Path, selector: Selector) -> InjectEngine {
    let paths = storymem_paths(folder, Some(folder.join(folders::LORA)));
    let how = (settings().budget, selector);
    InjectEngine::open(&paths, &storymem_settings(false), how, Replica::alone()).unwrap()
}

fn made_by(engine: &InjectEngine, inputs: &storyloom_story::ShotInputs) -> Made {
    let walk = |conditions: &InjectConditions| -> HostTensor {
        engine.denoise(conditions, None, &mut |_| true).unwrap()
    };
    let scores = walk(&engine.select(inputs).unwrap());
    assert_eq!(engine.draw(inputs, &scores).unwrap().frames().len(), 1);
    let (seen, conditions) = engine.encode(inputs, &scores).unwrap();
    let latents = walk(&conditions);
    let clip = engine.decode(inputs, &latents).unwrap();
    Made {
        scores,
        seen,
        latents,
        clip,
    }
}

#[test]
fn the_experts_of_storymem_see_what_onestory_chooses() {
    let folder = tempfile::tempdir().unwrap();
    init_tiny(folder.path(), Method::StoryMem, Seed(1)).unwrap();
    let recent = inject(folder.path(), Selector::Recent);
    let [text, image, history] = stories();
    let alone = made_by(&recent, &text);
    assert_eq!(alone.latents.shape(), [16, 3, 8, 12]);
    let with_image = made_by(&recent, &image);
    assert!(error(&with_image.latents, &alone.latents) > 1e-3);
    let seen = made_by(&recent, &history);
    assert!(error(&seen.latents, &alone.latents) > 1e-3);
    assert_eq!(seen.clip.frames().len(), 9);
    let uniform = inject(folder.path(), Selector::Uniform);
    assert_ne!(
        uniform.identity().fingerprint,
        recent.identity().fingerprint
    );
    let learned = inject(folder.path(), Selector::Learned);
    let said = learned.select(&history).unwrap_err().to_string();
    assert!(said.contains("storymem-inject"), "{said}");
}
