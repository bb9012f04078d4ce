//! Whole shots on replicas of several ranks, against one rank.

use std::path::Path;

use storyloom_models::sampler::{Reference, SamplerKind, SamplerSettings};
use storyloom_models::tiny::{folders, init_tiny};
use storyloom_models::vision::clip::SelectionResize;
use storyloom_nn::checkpoint::Target;
use storyloom_nn::lora::LoraSettings;
use storyloom_nn::testing::on_ranks;
use storyloom_parallel::topology::{Degrees, Plan};
use storyloom_story::{
    Clip, HostTensor, MemoryFrame, Method, Opening, RgbImage, Seed, ShotId, ShotInputs,
    ShotRequest, StoryId, VideoSpec,
};

use crate::method::storymem::{
    DenoiseSettings, StoryMemEngine, StoryMemPaths, StoryMemSettings, serve, storymem_paths,
};
use crate::method::wan::Compute;
use crate::replica::Replica;

const VIDEO: VideoSpec = VideoSpec {
    width: 64,
    height: 48,
    frames: 9,
    fps: 8,
};

pub(in crate::method) fn settings(share_decode: bool) -> StoryMemSettings {
    let phase = |shift, boundary| DenoiseSettings {
        sampler: SamplerSettings {
            kind: SamplerKind::UniPc,
            reference: Reference::Wan,
            steps: 4,
            shift,
        },
        boundary: Some(boundary),
        guidance_high: 3.5,
        // The low-noise expert has no negative prompt here: both ways of a step are tried.
        guidance_low: 1.0,
    };
    StoryMemSettings {
        compute: Compute {
            target: Target::CPU_F32,
            // The number is that of the whole program, in which other tests run.
            threads: None,
            share_decode,
            widen: true,
            collective_timeout: std::time::Duration::from_secs(120),
        },
        text_to_video: phase(12.0, 0.875),
        image_to_video: phase(4.0, 0.9),
        lora: LoraSettings::AS_FILES_SAY,
        memory_stride: 5,
        selection_resize: SelectionResize::Torch,
        negative_prompt: None,
    }
}

fn paths(folder: &Path) -> StoryMemPaths {
    storymem_paths(folder, Some(folder.join(folders::LORA)))
}

/// A picture with some structure.
fn picture(phase: u32) -> RgbImage {
    let pixel = |at: u32| ((at * 37 + phase * 101) % 251) as u8;
    RgbImage::new(64, 48, (0..64 * 48 * 3).map(pixel).collect()).unwrap()
}

fn request(opening: Opening) -> ShotRequest {
    ShotRequest {
        story: StoryId::new("ad").unwrap(),
        shot: ShotId { scene: 1, shot: 1 },
        attempt: 0,
        seed: Seed(7),
        method: Method::StoryMem,
        opening,
        prompt: "A red kettle on a stove.".to_owned(),
        related: Vec::new(),
        video: VIDEO,
    }
}

/// Everything that the stages of a shot make.
struct Made {
    latents: HostTensor,
    clip: Clip,
    embeddings: Vec<Vec<f32>>,
    remembered: HostTensor,
}

/// A first shot from text, and one that sees two pictures and continues a frame.
fn make(engine: &StoryMemEngine) -> Vec<Made> {
    let text = ShotInputs {
        request: request(Opening::Text),
        memory: Vec::new(),
        previous_tail: Vec::new(),
    };
    let memory = |phase, latents: bool| MemoryFrame {
        hash: format!("{phase}"),
        image: Some(picture(phase)),
        arrays: latents
            .then(|| {
                let seen = engine.remember(&picture(phase), VIDEO.resolution());
                (MemoryFrame::LATENTS.to_owned(), seen.unwrap().into())
            })
            .into_iter()
            .collect(),
    };
    let continued = ShotInputs {
        request: request(Opening::LastFrame),
        memory: vec![memory(1, true), memory(2, false)],
        previous_tail: vec![picture(3)],
    };
    let shot = |inputs: &ShotInputs| {
        let conditions = engine.encode(inputs).unwrap();
        let latents = engine
            .denoise(inputs, &conditions, None, &mut |_| true)
            .unwrap();
        let clip = engine.decode(inputs, &latents).unwrap();
        let frames: Vec<&RgbImage> = clip.frames().iter().collect();
        let (embeddings, _) = engine.score(&frames).unwrap();
        let remembered = engine.remember(frames[0], VIDEO.resolution()).unwrap();
        Made {
            latents,
            clip,
            embeddings,
            remembered,
        }
    };
    vec![shot(&text), shot(&continued)]
}

fn on(folder: &Path, plan: Plan, share_decode: bool) -> Vec<Made> {
    let ranks = plan.ranks();
    let layout = plan.lay_out(ranks).unwrap();
    let made = on_ranks(ranks, |group| {
        let replica = Replica::join(&group, layout).unwrap();
        let (paths, settings) = (paths(folder), settings(share_decode));
        if replica.is_leader() {
            let engine = StoryMemEngine::open(&paths, &settings, replica).unwrap();
            return Some(make(&engine));
        }
        serve(&paths, &settings, replica).unwrap();
        None
    });
    made.into_iter().flatten().next().unwrap()
}

/// Largest difference relative to the largest value.
fn error(found: &HostTensor, expected: &HostTensor) -> f32 {
    assert_eq!(found.shape(), expected.shape());
    let largest =
        |values: &mut dyn Iterator<Item = f32>| values.fold(0.0_f32, |a, b| a.max(b.abs()));
    let pairs = found.data().iter().zip(expected.data());
    largest(&mut pairs.map(|(a, b)| a - b)) / largest(&mut expected.data().iter().copied())
}

#[test]
fn replicas_make_what_one_rank_makes() {
    let folder = tempfile::tempdir().unwrap();
    init_tiny(folder.path(), Method::StoryMem, Seed(1)).unwrap();
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
        (plan(4, 1, 1, 1, 0), false, 1e-5),
        (plan(1, 2, 1, 0, 0), true, 1e-5),
        (plan(1, 4, 1, 0, 1), false, 1e-5),
        (plan(2, 1, 2, 1, 1), false, 1e-5),
        (plan(2, 2, 2, 0, 0), true, 1e-5),
    ] {
        let found = on(folder.path(), plan, share_decode);
        for (found, alone) in found.iter().zip(&alone) {
            let latents = error(&found.latents, &alone.latents);
            assert!(latents <= tolerance, "{plan:?}: latents {latents:.1e}");
            let same = found.clip == alone.clip;
            assert!(same || tolerance > 0.0, "{plan:?}");
            // A value on the edge between two bytes may fall to either side.
            let frames = found.clip.frames().iter().zip(alone.clip.frames());
            let bytes = frames.flat_map(|(a, b)| a.data().iter().zip(b.data()));
            let most = bytes.map(|(&a, &b)| a.abs_diff(b)).max().unwrap();
            assert!(most <= 1, "{plan:?}: pixels differ by {most}");
            assert_eq!(found.embeddings.len(), found.clip.frames().len());
            assert!(
                error(&found.remembered, &alone.remembered) < 0.02,
                "{plan:?}"
            );
        }
    }
}
