//! Tests of the losses: what they are, and what their gradients reach.

use storyloom_nn::gradients::with_gradients;
use storyloom_nn::tch::{Kind, Tensor};

use super::lesson::{Lesson, Past, Sees, shared};
use super::part::selector_loss;
use super::*;
use crate::latents::tower::similarity;
use crate::preset::Preset;
use storyloom_tinyworld::{Outline, Pattern, Split};

/// A run of the test preset with untrained networks in the places that `onestory` starts from.
fn begun(folder: &Path) -> Run {
    let run = Run::new(folder, Preset::test(), 3, Device::Cpu).unwrap();
    let never = std::sync::atomic::AtomicBool::new(false);
    let pace = crate::Pace {
        steps: Some(1),
        ..crate::Pace::default()
    };
    for &stage in &StageName::ALL[..6] {
        run.train(stage, pace, &never).unwrap();
    }
    run
}

/// Specification `onestory`, section 8, item 7.
#[test]
fn the_selector_learns_the_squared_error() {
    let scores = Tensor::from_slice(&[0.5_f32, 0.0, -0.2, 0.1]).view([1, 4]);
    let scores = scores.set_requires_grad(true);
    let labels = Tensor::from_slice(&[0.7_f32, 0.0, -1.0, 0.0]).view([1, 4]);
    let loss = selector_loss(&scores, &labels).unwrap();
    assert!((loss.double_value(&[]) - 0.1725).abs() < 1e-6);
    loss.backward();
    let wanted = (scores.detach() - labels) * 0.5;
    assert!(scores.grad().allclose(&wanted, 1e-6, 1e-7, false));
}

/// The same item: the loss of a shot reaches transformer and patchifiers, and nothing of the selector; the
/// loss of the selector reaches all of the selector.
#[test]
fn no_gradient_of_a_shot_reaches_the_selector() {
    let folder = tempfile::tempdir().unwrap();
    let run = begun(folder.path());
    let files = run.files(StageName::OneStory).unwrap();
    for lambda in [0.0, 0.1] {
        let parts = FlowParts::begin(&run, &files, true).unwrap();
        let (mut settings, adam) = run.preset.onestory;
        settings.lambda = lambda;
        (settings.opening, settings.bare, settings.warm_up) = (0.0, 0.0, 0.0);
        let memory = run.average(StageName::Memory, "test").unwrap();
        let mut stage = built(&run, parts, (settings, adam), &memory);
        stage.pool.fill(0).unwrap();
        let step = (0..50).find(|&step| {
            let part = stage.part(0, step).unwrap();
            matches!(part.sees, Sees::Selected(_)) && part.teacher.is_none()
        });
        let part = stage.part(0, step.unwrap()).unwrap();
        let loss = with_gradients(|| part.loss(&stage.params.checkpoint())).unwrap();
        loss.backward();
        let length = |prefix: &str| {
            let of = stage.params.tensors().iter();
            let of = of.filter(|(name, _)| name.starts_with(prefix));
            let lengths = of.map(|(_, tensor)| match tensor.grad() {
                gradient if gradient.defined() => gradient.norm().double_value(&[]),
                _ => 0.0,
            });
            lengths.collect::<Vec<f64>>()
        };
        let selector = length("onestory.selector.");
        assert!(selector.len() > 20);
        let reached = selector.iter().filter(|length| **length > 0.0).count();
        match lambda {
            0.0 => assert_eq!(reached, 0),
            _ => assert!(reached + 2 >= selector.len(), "{selector:?}"),
        }
        assert!(length("onestory.patchifiers.p4").iter().all(|l| *l > 0.0));
        assert!(length("onestory.context_token")[0] > 0.0);
        assert!(
            length("transformer.blocks.0.attn1.to_k")
                .iter()
                .all(|l| *l > 0.0)
        );
    }
}

/// The stage of these settings.
fn built(
    run: &Run,
    parts: FlowParts,
    (settings, adam): (OneStorySettings, AdamSettings),
    memory: &Tensors,
) -> OneStoryStage {
    let begun = transformer(memory);
    assemble(
        run,
        StageName::OneStory,
        parts,
        (settings, adam),
        &begun,
        None,
    )
    .unwrap()
}

/// A batch has what its samples say: the history in its order, and the target last.
#[test]
fn a_batch_is_what_its_plan_says() {
    let folder = tempfile::tempdir().unwrap();
    let run = begun(folder.path());
    let codec = run.codec().unwrap();
    let mut pool = Pool::new(codec, crate::latents::Length::History, 0, 2);
    pool.fill(0).unwrap();
    let entries = pool.entries();
    let shots = entries[0].story.shots.len() - 1;
    let lesson = |history, is_given_image| Lesson {
        story: 0,
        target: if is_given_image { 0 } else { shots },
        history,
        caption: String::new(),
        is_given_image,
    };
    let of = |lesson: Lesson| {
        let plan = Plan {
            is_still: false,
            sees: Sees::Nothing,
            lessons: vec![lesson],
        };
        let grid = run.preset.shape.transformer(true).unwrap().latent_grid();
        let video = (grid, run.preset.source.frames);
        Batch::of(
            &plan,
            &mut Draws::new(0, "batch", 0),
            entries,
            video,
            Device::Cpu,
        )
        .unwrap()
    };
    let history = vec![
        Past::Copied(1),
        Past::Real(0),
        Past::Inserted { story: 1, shot: 2 },
    ];
    let batch = of(lesson(history, false));
    let latents = &entries[0].latents;
    assert_eq!(batch.clean.get(0), latents.clips.get(shots as i64));
    assert_eq!(
        batch.condition.abs().sum(Kind::Float).double_value(&[]),
        0.0
    );
    assert_eq!(
        batch.history[0].get(0),
        latents.copies.as_ref().unwrap().get(1)
    );
    assert_eq!(batch.history[1].get(0), latents.clips.get(0));
    assert_eq!(batch.history[2].get(0), entries[1].latents.clips.get(2));
    let frames = latents.clips.size()[2];
    assert_eq!(batch.labels.size(), [1, 3 * frames]);
    let first = of(lesson(Vec::new(), true));
    let mask =
        first
            .condition
            .narrow(1, 0, 4)
            .mean_dim([0_i64, 1, 3, 4].as_slice(), false, Kind::Float);
    let mask = Vec::<f32>::try_from(&mask).unwrap();
    assert!(mask[0] == 1.0 && mask[1..].iter().all(|value| *value == 0.0));
    assert_eq!(first.condition.get(0).narrow(0, 4, 4), latents.given.get(0));
    assert!(first.history.is_empty() && first.labels.size() == [1, 0]);
}

/// An augmented copy is another picture of the same shot, and is drawn again as it was.
#[test]
fn a_pool_with_copies_is_restored_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let run = begun(folder.path());
    let codec = run.codec().unwrap();
    let pool = || Pool::new(codec.clone(), crate::latents::Length::History, 5, 3);
    let (mut first, mut second) = (pool(), pool());
    first.fill(0).unwrap();
    first.fill(1).unwrap();
    second.restore(&first.state().unwrap()).unwrap();
    for (one, other) in first.entries().iter().zip(second.entries()) {
        assert_eq!(one.story, other.story);
        assert_eq!(one.latents.clips, other.latents.clips);
        assert_eq!(one.latents.given, other.latents.given);
        assert_eq!(one.latents.copies, other.latents.copies);
        let shot = crate::latents::copied_shots(&one.story)[0] as i64;
        let copy = one.latents.copies.as_ref().unwrap().get(0);
        assert!(copy != one.latents.clips.get(shot));
    }
    let ids: Vec<&str> = first
        .entries()
        .iter()
        .map(|entry| entry.story.id.as_str())
        .collect();
    // Of five seeds three are of patterns.
    assert_eq!(
        ids,
        [
            "tiny-train-8",
            "tiny-train-recall-6",
            "tiny-train-composable-7"
        ]
    );
}

/// The shipped vision tower orders frames as the things do that they show: what it makes labels of is worth
/// learning. Pairs of frames of which one shows more of the things of a later shot.
#[test]
fn the_vision_tower_tells_what_matters_from_the_rest() {
    let set = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../models/storyloom-tiny/clip/model.safetensors"
    );
    let preset = Preset::tiny();
    let tower = Tower {
        config: preset.shape.clip().unwrap(),
        tensors: crate::params::read(Path::new(set)).unwrap(),
        source: preset.source,
        device: Device::Cpu,
    };
    let (mut pairs, mut in_order) = (0, 0);
    for seed in 0..4 {
        let plain = Story::draw(seed, Split::HeldOut);
        for story in [
            plain,
            Outline::of(Pattern::InsertRecall).draw(seed, Split::HeldOut),
        ] {
            let embeddings = tower.embed(&story, 3).unwrap();
            for target in 1..story.shots.len() {
                let mut frames = Vec::new();
                for shot in 0..target {
                    let scenes = [target, shot].map(|shot| &story.shots[shot].scene);
                    let share = shared(scenes[0], scenes[1]);
                    let similar = similarity(&embeddings, target, shot).unwrap();
                    frames.extend(similar.into_iter().map(|similar| (share, similar)));
                }
                let others = |one: (f32, f32)| frames.iter().filter(move |other| one.0 > other.0);
                for &one in &frames {
                    pairs += others(one).count();
                    in_order += others(one).filter(|other| one.1 > other.1).count();
                }
            }
        }
    }
    assert!(
        pairs > 1000 && in_order as f64 > 0.88 * pairs as f64,
        "{in_order} of {pairs}"
    );
}
