//! The loops of StoryMem on the golden pipelines of diffusers.

use storyloom_models::autoencoder::AutoencoderKlWan;
use storyloom_models::sampler::{Reference, SamplerKind, SamplerSettings};
use storyloom_models::text::PromptEncoder;
use storyloom_models::wan::condition_channels;
use storyloom_nn::testing::{golden, golden_tensors, relative_error};
use storyloom_story::Opening;
use tch::Kind;

use super::*;
use crate::method::wan::TextPair;

/// That of the golden pipelines.
const GRID: LatentGrid = LatentGrid::WAN_2_1;

fn settings(shift: f64, boundary: f64, guidance: [f64; 2]) -> DenoiseSettings {
    let sampler = SamplerSettings {
        kind: SamplerKind::UniPc,
        reference: Reference::Diffusers,
        steps: 8,
        shift,
    };
    let [guidance_high, guidance_low] = guidance;
    DenoiseSettings {
        sampler,
        boundary: Some(boundary),
        guidance_high,
        guidance_low,
    }
}

fn open(case: &str, settings: &DenoiseSettings) -> (Networks, LoopPlan) {
    let mut networks = Networks::default();
    let (folder, shard) = (golden(case), Shard::default());
    let (ids, target) = (TEXT_TO_VIDEO, Target::CPU_F32);
    let experts = Experts::open(&mut networks, ids, &folder, target, None, &shard).unwrap();
    let plan = experts.plan(&folder, settings).unwrap();
    (networks, plan)
}

fn text(case: &str) -> TextPair {
    let encoder = PromptEncoder::open(&golden(case), Target::CPU_F32).unwrap();
    let recipe = std::fs::read(golden(case).join("recipe.json")).unwrap();
    let recipe: serde_json::Value = serde_json::from_slice(&recipe).unwrap();
    let encode = |key: &str| encoder.encode(recipe[key].as_str().unwrap()).unwrap();
    TextPair {
        positive: encode("prompt"),
        negative: encode("negative_prompt"),
    }
}

/// The golden pipelines of diffusers: prompt and noise to latents and pixels, two experts.
#[test]
fn whole_pipelines() {
    for (case, settings, high) in [
        ("pipeline-t2v", settings(12.0, 0.875, [4.0, 3.0]), 6),
        ("pipeline-i2v", settings(5.0, 0.9, [3.5, 3.5]), 3),
    ] {
        let io = golden_tensors(case, "io.safetensors");
        let text = text(case);
        assert!(relative_error(&text.positive, &io["prompt_embeds"]) < 2e-5);
        assert!(relative_error(&text.negative, &io["negative_prompt_embeds"]) < 2e-5);
        let vae = AutoencoderKlWan::open(&golden(case).join("vae"), Device::Cpu).unwrap();
        let condition = io.get("image").map(|image| {
            let frame = image.to_kind(Kind::Float).permute([2, 0, 1]) / 127.5 - 1.0;
            let rest = Tensor::zeros([3, 8, 32, 48], (Kind::Float, Device::Cpu));
            let clip = Tensor::cat(&[frame.unsqueeze(1), rest], 1).unsqueeze(0);
            let latents = vae
                .normalize(&vae.encode(&clip).unwrap())
                .unwrap()
                .squeeze_dim(0);
            let channels = condition_channels(GRID, &[], &latents, 9, Opening::LastFrame).unwrap();
            assert!(relative_error(&channels, &io["condition"].squeeze_dim(0)) < 2e-5);
            channels.unsqueeze(0)
        });
        let (networks, plan) = open(case, &settings);
        let experts = (0..8).filter(|&step| plan.phase_of(step) == 0);
        assert_eq!(experts.count(), high);
        let conditions = Conditions {
            text,
            pictures: condition,
            memory: 0,
            positions: vec![0, 1, 2],
        };
        let conditions = loop_conditions(&conditions).unwrap();
        let sample = |resume, observer: &mut dyn FnMut(&LoopProgress) -> bool| {
            let start = LoopStart {
                noise: &io["latents"],
                conditions: &conditions,
                resume,
            };
            plan.sample(&networks, &Team::default(), &start, observer)
        };
        let mut seen = Vec::new();
        let mut saved = Vec::new();
        let latents = sample(None, &mut |progress| {
            seen.push((progress.done(), progress.total()));
            saved.push(progress.save().unwrap());
            true
        })
        .unwrap();
        assert_eq!(seen.last(), Some(&(8, 8)));
        let error = relative_error(&latents, &io["output_latents"]);
        assert!(error < 1e-4, "{case}: latents {error:.2e}");
        let pixels = vae.decode(&vae.denormalize(&latents).unwrap()).unwrap();
        let video = pixels.squeeze_dim(0).transpose(0, 1).unsqueeze(0) / 2.0 + 0.5;
        let error = relative_error(&video, &io["output_video"]);
        assert!(error < 1e-4, "{case}: pixels {error:.2e}");

        // From every step, across the change of experts too, the same bits.
        for state in &saved[..7] {
            let resumed = sample(Some(state), &mut |_| true);
            assert_eq!(resumed.unwrap(), latents, "after step {}", state.done);
        }
        let mut other = saved[2].clone();
        other.total = 9;
        assert!(sample(Some(&other), &mut |_| true).is_err());
        let mut other = saved[2].clone();
        other.pass = PassName::new("keyframe");
        assert!(sample(Some(&other), &mut |_| true).is_err());
        let mut cut = saved[2].clone();
        cut.arrays.remove("sample");
        assert!(sample(Some(&cut), &mut |_| true).is_err());
        let stopped = sample(None, &mut |progress| progress.done() < 3).unwrap_err();
        assert!(matches!(
            stopped,
            ModelError::Interrupted { step: 3, steps: 8 }
        ));
    }
}

#[test]
fn a_boundary_wants_two_experts_or_a_pipeline_that_says_it_has_one() {
    let one = Experts {
        high: NetworkId(0),
        low: None,
        latents: 16,
        condition: 0,
    };
    let two = Experts {
        low: Some(NetworkId(1)),
        ..one
    };
    let folder = tempfile::tempdir().unwrap();
    let settings = settings(12.0, 0.875, [4.0, 1.0]);
    let phases = |experts: &Experts, settings: &DenoiseSettings| {
        let plan = experts.plan(folder.path(), settings)?;
        Ok::<_, ModelError>((0..8).map(|step| plan.phase_of(step)).collect::<Vec<_>>())
    };
    assert_eq!(phases(&two, &settings).unwrap(), [0, 0, 0, 0, 0, 0, 1, 1]);
    for boundary in [None, Some(0.0)] {
        let settings = DenoiseSettings {
            boundary,
            ..settings
        };
        assert_eq!(phases(&two, &settings).unwrap(), [0; 8]);
    }
    let error = phases(&one, &settings).unwrap_err().to_string();
    assert!(error.contains("no transformer_2"), "{error}");
    let index = r#"{"transformer_2": [null, null]}"#;
    std::fs::write(folder.path().join("model_index.json"), index).unwrap();
    assert_eq!(phases(&one, &settings).unwrap(), [0; 8]);
}
