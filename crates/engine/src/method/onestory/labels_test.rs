//! Scores that are likenesses: what is kept of a shot for them, and what decides them.

use std::fs;

use storyloom_models::tiny::folders;
use storyloom_story::onestory::Selector;
use storyloom_story::{HostTensor, MemoryFrame, ShotInputs};

use super::parts::{advice, onestory_parts};
use super::replicas_test::{VIDEO, inputs, make, open, settings, tiny};
use super::{Backend, OneStoryEngine, OneStoryScorer, OneStorySettings, onestory_paths};

fn oracle(settings: &mut OneStorySettings) {
    settings.selector = Selector::Clip;
}

/// A shot of this seed, as it is kept.
fn kept(engine: &OneStoryEngine, seed: u64) -> MemoryFrame {
    let mut first = inputs(Vec::new());
    first.request.seed = storyloom_story::Seed(seed);
    let made = make(engine, &first);
    assert_eq!(made.scores.data(), [0.0], "there is no history");
    let mut arrays = engine.remember_features(&made.clip).unwrap();
    let latents = engine.remember_shot(&made.latents, &made.clip, VIDEO.resolution());
    arrays.insert(MemoryFrame::LATENTS.to_owned(), latents.unwrap());
    let arrays = arrays.into_iter();
    MemoryFrame {
        hash: format!("of shot {seed}"),
        image: None,
        arrays: arrays.map(|(name, array)| (name, array.into())).collect(),
    }
}

fn history(engine: &OneStoryEngine) -> ShotInputs {
    inputs(vec![kept(engine, 7), kept(engine, 8)])
}

fn lengths(item: &MemoryFrame, name: &str) -> Vec<f32> {
    let table: HostTensor = item.arrays[name].read().unwrap().as_ref().clone();
    let width = table.shape()[1];
    let rows = table.data().chunks(width);
    rows.map(|row| row.iter().map(|value| value * value).sum::<f32>().sqrt())
        .collect()
}

/// One vector of length 1 for each latent frame, of each network; without the selector nothing beside the latents.
#[test]
fn a_shot_is_looked_at_once_for_each_latent_frame() {
    let folder = tiny();
    let engine = open(folder.path(), oracle);
    let item = kept(&engine, 7);
    let latents = item.arrays[MemoryFrame::LATENTS].shape()[1];
    for name in ["clip", "dino"] {
        let lengths = lengths(&item, name);
        assert_eq!(lengths.len(), latents, "{name}");
        assert!(
            lengths.iter().all(|length| (length - 1.0).abs() < 1e-5),
            "{name}: {lengths:?}"
        );
    }
    let learned = open(folder.path(), |_| {});
    let [text, ..] = super::replicas_test::stories();
    let clip = make(&learned, &text).clip;
    assert!(learned.remember_features(&clip).unwrap().is_empty());
    assert_ne!(
        learned.identity().fingerprint,
        engine.identity().fingerprint
    );
}

#[test]
fn caption_and_characters_decide_what_is_seen() {
    let folder = tiny();
    let engine = open(folder.path(), oracle);
    let mut inputs = history(&engine);
    let of_caption = engine.scores(&inputs).unwrap();
    assert_eq!(of_caption.shape(), [6]);
    assert!(
        of_caption.data().iter().all(|score| score.abs() <= 0.5),
        "{of_caption:?}"
    );
    inputs.request.related = vec![1];
    let of_second = engine.scores(&inputs).unwrap();
    // Its own frames are more like the mean of the second shot than those of the first.
    let more = |scores: &HostTensor, frame: usize| scores.data()[frame] - of_caption.data()[frame];
    let least = (3..6)
        .map(|frame| more(&of_second, frame))
        .fold(f32::INFINITY, f32::min);
    assert!(
        (0..3).all(|frame| more(&of_second, frame) < least),
        "{of_second:?}"
    );
    inputs.request.prompt = "An old house in the snow.".to_owned();
    assert_ne!(engine.scores(&inputs).unwrap(), of_second);
    // What is seen follows from them as from learned ones.
    let scores = engine.scores(&inputs).unwrap();
    let (seen, _) = engine.encode(&inputs, &scores).unwrap();
    assert!(!seen.is_empty());
}

/// The proof needs neither transformer nor text encoder, and its parts are those of the engine.
#[test]
fn a_proof_gives_the_same_likenesses() {
    let folder = tiny();
    let engine = open(folder.path(), oracle);
    let mut inputs = history(&engine);
    inputs.request.related = vec![0];
    let mut settings = settings();
    oracle(&mut settings);
    let scorer = OneStoryScorer::open(&onestory_paths(folder.path(), None), &settings).unwrap();
    assert_eq!(
        scorer.scores(&inputs).unwrap(),
        engine.scores(&inputs).unwrap()
    );
    let names = scorer.digests().into_iter().map(|(name, _)| name);
    let names: Vec<String> = names.collect();
    assert_eq!(names, ["onestory_labels/clip", "onestory_labels/dino"]);
    let known = &engine.identity().digests;
    assert!(
        scorer.digests().iter().all(|part| known.contains(part)),
        "{known:?}"
    );
}

/// One checkpoint with both towers, or one for each with the tokenizer beside them.
#[test]
fn clip_may_lie_in_one_folder_or_in_three() {
    let folder = tiny();
    let inputs = history(&open(folder.path(), oracle));
    let expected = open(folder.path(), oracle).scores(&inputs).unwrap();
    let clip = folder.path().join(folders::ONESTORY_LABELS).join("clip");
    let whole = folder.path().join("whole");
    fs::rename(&clip, &whole).unwrap();
    for part in ["text_encoder", "image_encoder", "tokenizer"] {
        fs::create_dir_all(clip.join(part)).unwrap();
        for entry in fs::read_dir(&whole).unwrap() {
            let entry = entry.unwrap();
            fs::copy(entry.path(), clip.join(part).join(entry.file_name())).unwrap();
        }
    }
    let engine = open(folder.path(), oracle);
    assert_eq!(engine.scores(&inputs).unwrap(), expected);
    let names: Vec<&str> = engine
        .identity()
        .digests
        .iter()
        .map(|(name, _)| name.as_str())
        .collect();
    for part in ["clip/text_encoder", "clip/image_encoder", "dino"] {
        let name = format!("{}/{part}", folders::ONESTORY_LABELS);
        assert!(names.contains(&name.as_str()), "{names:?}");
    }
}

#[test]
fn what_is_missing_for_it_is_told() {
    let folder = tiny();
    let engine = open(folder.path(), oracle);
    let mut inputs = history(&engine);
    inputs.memory[1].arrays.remove("dino");
    let said = engine.scores(&inputs).unwrap_err().to_string();
    assert!(
        said.contains("of shot 8") && said.contains("dino"),
        "{said}"
    );
    let paths = onestory_paths(folder.path(), None);
    let dino = folder.path().join(folders::ONESTORY_LABELS).join("dino");
    fs::remove_dir_all(&dino).unwrap();
    let of = |selector| onestory_parts(&paths, (Backend::OneStory, selector), settings().lora);
    assert!(
        of(Selector::Learned)
            .iter()
            .all(|part| part.problem.is_none())
    );
    let parts = of(Selector::Clip);
    let missing: Vec<&str> = parts
        .iter()
        .filter(|part| part.problem.is_some())
        .map(|part| part.name.as_str())
        .collect();
    assert_eq!(missing, ["onestory_labels/dino"]);
    let said = advice(folder.path(), &parts).join("\n");
    assert!(said.contains("facebook/dinov2-base"), "{said}");
}
