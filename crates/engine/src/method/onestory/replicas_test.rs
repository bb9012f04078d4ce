//! Whole shots with what they see of their history, on one rank and on replicas of several ranks.

use std::path::Path;
use std::time::Duration;

use storyloom_models::sampler::{Reference, SamplerKind, SamplerSettings};
use storyloom_models::tiny::init_tiny;
use storyloom_nn::checkpoint::Target;
use storyloom_nn::lora::LoraSettings;
use storyloom_nn::testing::on_ranks;
use storyloom_parallel::topology::{Degrees, Plan};
use storyloom_story::onestory::{Budget, ContextTime, Selector};
use storyloom_story::stored::ReadCount;
use storyloom_story::{
    Clip, HostTensor, MemoryFrame, Method, Opening, RgbImage, Seed, ShotId, ShotInputs,
    ShotRequest, StoryId, VideoSpec,
};

use crate::method::onestory::{
    Backend, Conditions, MemorySource, OneStoryEngine, OneStoryScorer, OneStorySettings,
    onestory_paths, serve,
};
use crate::method::wan::Compute;
use crate::replica::Replica;

pub(super) const VIDEO: VideoSpec = VideoSpec {
    width: 96,
    height: 64,
    frames: 9,
    fps: 8,
};

/// Those of a new config, but for the number of steps.
pub(super) fn settings() -> OneStorySettings {
    OneStorySettings {
        compute: Compute {
            target: Target::CPU_F32,
            // The number is that of the whole program, in which other tests run.
            threads: None,
            share_decode: false,
            widen: true,
            collective_timeout: Duration::from_secs(120),
        },
        sampler: SamplerSettings {
            kind: SamplerKind::UniPc,
            reference: Reference::Wan,
            steps: 4,
            shift: 3.0,
        },
        guidance: 5.0,
        negative_prompt: None,
        lora: LoraSettings::AS_FILES_SAY,
        budget: Budget::default(),
        selector: Selector::Learned,
        score_norm: None,
        time: ContextTime::default(),
        context_is_clean: false,
        source: MemorySource::Latent,
        backend: Backend::OneStory,
    }
}

pub(super) fn tiny() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    init_tiny(folder.path(), Method::OneStory, Seed(1)).unwrap();
    folder
}

pub(super) fn open(folder: &Path, change: impl FnOnce(&mut OneStorySettings)) -> OneStoryEngine {
    let mut settings = settings();
    change(&mut settings);
    OneStoryEngine::open(&onestory_paths(folder, None), &settings, Replica::alone()).unwrap()
}

/// A picture with some structure.
fn picture(phase: u32) -> RgbImage {
    let pixel = |at: u32| ((at * 37 + phase * 101) % 251) as u8;
    let size = VIDEO.width * VIDEO.height * 3;
    RgbImage::new(VIDEO.width, VIDEO.height, (0..size).map(pixel).collect()).unwrap()
}

/// Smooth latents, `[16, 3, 8, 12]`.
fn latents(phase: usize) -> HostTensor {
    let value = |at: usize| ((at * 7 + phase * 131) as f32 * 0.01).sin();
    HostTensor::new(vec![16, 3, 8, 12], (0..16 * 3 * 96).map(value).collect()).unwrap()
}

fn shot_of(array: impl Into<storyloom_story::StoredArray>) -> MemoryFrame {
    MemoryFrame {
        hash: "of a shot".to_owned(),
        image: None,
        arrays: [(MemoryFrame::LATENTS.to_owned(), array.into())].into(),
    }
}

fn first_image() -> MemoryFrame {
    MemoryFrame {
        hash: "of an image".to_owned(),
        image: Some(picture(3)),
        arrays: [].into(),
    }
}

pub(super) fn inputs(memory: Vec<MemoryFrame>) -> ShotInputs {
    let opening = match memory.is_empty() {
        true => Opening::Text,
        false => Opening::Memory,
    };
    ShotInputs {
        request: ShotRequest {
            story: StoryId::new("ad").unwrap(),
            shot: ShotId { scene: 1, shot: 1 },
            attempt: 0,
            seed: Seed(7),
            method: Method::OneStory,
            opening,
            prompt: "A red kettle on a stove.".to_owned(),
            related: Vec::new(),
            video: VIDEO,
        },
        memory,
        previous_tail: Vec::new(),
    }
}

/// Everything that the passes of a shot make.
pub(super) struct Made {
    pub(super) scores: HostTensor,
    pub(super) seen: Vec<usize>,
    pub(super) latents: HostTensor,
    pub(super) clip: Clip,
}

pub(super) fn make(engine: &OneStoryEngine, inputs: &ShotInputs) -> Made {
    let walk = |conditions: &Conditions| {
        let latents = engine.denoise(inputs, conditions, None, &mut |_| true);
        latents.unwrap()
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

/// From text, from an image, and with a history of three shots behind an image.
pub(super) fn stories() -> [ShotInputs; 3] {
    let history = (0..3).map(|phase| shot_of(latents(phase)));
    let memory = std::iter::once(first_image()).chain(history);
    [
        inputs(Vec::new()),
        inputs(vec![first_image()]),
        inputs(memory.collect()),
    ]
}

fn on(folder: &Path, plan: Plan, share_decode: bool) -> Vec<Made> {
    let ranks = plan.ranks();
    let layout = plan.lay_out(ranks).unwrap();
    let made = on_ranks(ranks, |group| {
        let replica = Replica::join(&group, layout).unwrap();
        let (paths, mut settings) = (onestory_paths(folder, None), settings());
        settings.compute.share_decode = share_decode;
        if replica.is_leader() {
            let engine = OneStoryEngine::open(&paths, &settings, replica).unwrap();
            return Some(stories().map(|inputs| make(&engine, &inputs)).into());
        }
        serve(&paths, &settings, replica).unwrap();
        None
    });
    made.into_iter().flatten().next().unwrap()
}

/// Largest difference relative to the largest value.
pub(super) fn error(found: &HostTensor, expected: &HostTensor) -> f32 {
    assert_eq!(found.shape(), expected.shape());
    let largest =
        |values: &mut dyn Iterator<Item = f32>| values.fold(0.0_f32, |a, b| a.max(b.abs()));
    let pairs = found.data().iter().zip(expected.data());
    largest(&mut pairs.map(|(a, b)| a - b)) / largest(&mut expected.data().iter().copied())
}

#[test]
fn replicas_make_what_one_rank_makes() {
    let folder = tiny();
    let plan = |tensor, sequence, cfg, encoders, decoders| Plan {
        planners: 0,
        planner_tensor: 1,
        replicas: None,
        degrees: Degrees {
            tensor,
            sequence,
            cfg,
        },
        encoders,
        decoders,
    };
    let alone = on(folder.path(), plan(1, 1, 1, 0, 0), false);
    for (plan, share_decode, tolerance) in [
        // Nothing of the arithmetic changes.
        (plan(1, 1, 2, 0, 0), false, 0.0),
        (plan(1, 1, 1, 2, 1), false, 0.0),
        (plan(2, 1, 1, 0, 0), true, 1e-5),
        (plan(1, 2, 1, 0, 0), true, 1e-5),
        // The tokens of shot and context do not divide by four.
        (plan(1, 4, 1, 1, 1), false, 1e-5),
        (plan(2, 2, 2, 0, 0), true, 1e-5),
    ] {
        let found = on(folder.path(), plan, share_decode);
        assert_eq!(found.len(), alone.len());
        for (found, alone) in found.iter().zip(&alone) {
            assert_eq!(found.scores, alone.scores, "{plan:?}");
            assert_eq!(found.seen, alone.seen, "{plan:?}");
            let latents = error(&found.latents, &alone.latents);
            assert!(latents <= tolerance, "{plan:?}: latents {latents:.1e}");
            assert_eq!(found.clip.frames().len(), alone.clip.frames().len());
        }
    }
}

/// What is seen changes the shot, in every way that the settings have, and the first image only the first
/// shot.
#[test]
fn a_shot_depends_on_what_it_sees() {
    let folder = tiny();
    let engine = open(folder.path(), |_| {});
    let [text, image, history] = stories().map(|inputs| make(&engine, &inputs));
    assert_eq!(text.scores.data(), [0.0]);
    assert_eq!((text.seen.len(), image.seen.len()), (0, 0));
    assert_eq!(history.scores.shape(), [9]);
    assert!(!history.seen.is_empty() && history.seen.iter().all(|&place| place > 0));
    assert!(error(&image.latents, &text.latents) > 1e-3);
    assert!(error(&history.latents, &text.latents) > 1e-3);
    let [.., with_history] = stories();
    let without_image = make(&engine, &inputs(with_history.memory[1..].to_vec()));
    assert_eq!(without_image.latents, history.latents);
    let changes: [fn(&mut OneStorySettings); 5] = [
        |settings| settings.budget.units = 0,
        |settings| settings.time = ContextTime::TrueDistance,
        |settings| settings.context_is_clean = true,
        |settings| settings.selector = Selector::Recent,
        |settings| settings.guidance = 1.0,
    ];
    for (at, change) in changes.into_iter().enumerate() {
        let other = make(&open(folder.path(), change), &with_history);
        assert!(error(&other.latents, &history.latents) > 1e-5, "{at}");
        if at == 0 {
            // Without a budget it is plain Wan, to the bit.
            assert_eq!(other.latents, text.latents);
            assert_eq!(other.seen, Vec::<usize>::new());
        }
    }
}

/// The selector alone says the same, and its parts are those of the engine.
#[test]
fn a_proof_scores_as_the_engine_does() {
    let folder = tiny();
    let engine = open(folder.path(), |_| {});
    let scorer = OneStoryScorer::open(&onestory_paths(folder.path(), None), &settings()).unwrap();
    for inputs in stories() {
        let found = scorer.scores(&inputs).unwrap();
        assert_eq!(found, engine.scores(&inputs).unwrap());
    }
    let digests = scorer.digests();
    assert_eq!(digests.len(), 2);
    let known = &engine.identity().digests;
    assert!(digests.iter().all(|part| known.contains(part)), "{known:?}");
}

/// Specification `onestory`, section 8, item 14: each shot of the history is read once for the scores, the
/// chosen ones once more for their tokens, never two at the same time, and none of them in a step.
#[test]
fn the_history_is_looked_at_once_per_shot_and_never_per_step() {
    let folder = tiny();
    let engine = open(folder.path(), |_| {});
    let count = ReadCount::default();
    let history = (0..5).map(|phase| shot_of(count.array(latents(phase))));
    let inputs = inputs(history.collect());
    let conditions = engine.select(&inputs).unwrap();
    let scores = engine.denoise(&inputs, &conditions, None, &mut |_| true);
    let scores = scores.unwrap();
    assert_eq!(count.reads(), 5);
    let (seen, conditions) = engine.encode(&inputs, &scores).unwrap();
    assert_eq!(count.reads(), 5 + seen.len());
    let mut steps = 0;
    let latents = engine.denoise(&inputs, &conditions, None, &mut |_| {
        steps += 1;
        true
    });
    assert_eq!((latents.unwrap().shape()[1], steps), (3, 4));
    assert_eq!((count.reads(), count.most_at_once()), (5 + seen.len(), 1));
}

#[test]
fn a_shot_goes_on_from_any_step_to_the_same_bits() {
    let folder = tiny();
    let engine = open(folder.path(), |_| {});
    let [.., inputs] = stories();
    let scores = engine.scores(&inputs).unwrap();
    let (_, conditions) = engine.encode(&inputs, &scores).unwrap();
    let mut saved = Vec::new();
    let whole = engine.denoise(&inputs, &conditions, None, &mut |progress| {
        saved.push(progress.save().unwrap());
        true
    });
    let whole = whole.unwrap();
    // Conditions are made again by the engine that goes on.
    let again = open(folder.path(), |_| {});
    let (_, conditions) = again.encode(&inputs, &scores).unwrap();
    for state in &saved[..3] {
        let resumed = again.denoise(&inputs, &conditions, Some(state), &mut |_| true);
        assert_eq!(resumed.unwrap(), whole, "after step {}", state.done);
    }
}

#[test]
fn a_shot_that_is_kept_is_its_latents_or_those_of_its_frames() {
    let folder = tiny();
    let [inputs, ..] = stories();
    let keep = |source: MemorySource| {
        let engine = open(folder.path(), |settings| settings.source = source);
        let made = make(&engine, &inputs);
        let size = VIDEO.resolution();
        let kept = engine
            .remember_shot(&made.latents, &made.clip, size)
            .unwrap();
        (made.latents, kept)
    };
    let (latents, kept) = keep(MemorySource::Latent);
    assert_eq!(kept, latents);
    let (latents, kept) = keep(MemorySource::Reencode);
    assert_eq!(kept.shape(), latents.shape());
    assert_ne!(kept, latents);
}

#[test]
fn what_no_shot_can_be_made_of_is_told() {
    let folder = tiny();
    let engine = open(folder.path(), |_| {});
    let said = |inputs: &ShotInputs| engine.scores(inputs).unwrap_err().to_string();
    let mut silent = inputs(Vec::new());
    silent.request.prompt = " \u{0}\n ".to_owned();
    assert!(said(&silent).contains("clean-up"), "{}", said(&silent));
    let small = HostTensor::new(vec![16, 3, 4, 6], vec![0.5; 16 * 3 * 24]).unwrap();
    let small = inputs(vec![shot_of(small)]);
    assert!(said(&small).contains("16x4x6"), "{}", said(&small));
    let two = inputs(vec![first_image(), first_image()]);
    let scores = engine.scores(&two).unwrap();
    let error = engine.encode(&two, &scores).unwrap_err().to_string();
    assert!(error.contains("there are 2"), "{error}");
    let other = HostTensor::new(vec![2], vec![0.5; 2]).unwrap();
    let [.., history] = stories();
    let error = engine.encode(&history, &other).unwrap_err().to_string();
    assert!(
        error.contains("9 latent frames") && error.contains("story ad"),
        "{error}"
    );
}
