//! Tests of `transformer.rs`.

use super::*;
use storyloom_nn::layers::without_kernels;
use storyloom_nn::stand_in::as_gpu;
use storyloom_nn::testing::{cosines, fill_checkpoint, relative_error, summary};
use tch::Device;

const TINY: &str = r#"{"_class_name": "WanTransformer3DModel", "patch_size": [1, 2, 2],
    "num_attention_heads": 4, "attention_head_dim": 16, "in_channels": 16, "out_channels": 16,
    "text_dim": 32, "freq_dim": 256, "ffn_dim": 96, "num_layers": 2, "cross_attn_norm": true,
    "qk_norm": "rms_norm_across_heads", "eps": 1e-6}"#;

fn tiny(folder: &Path) -> WanTransformer {
    let config: WanConfig = serde_json::from_str(TINY).unwrap();
    fill_checkpoint(folder, TINY, 0.08, |weights| {
        WanTransformer::load(weights, config.clone()).map(drop)
    });
    WanTransformer::open(folder, Target::CPU_F32).unwrap()
}

fn inputs() -> (Tensor, Tensor) {
    let latents = cosines(&[1, 16, 3, 4, 6], 0.0);
    let text = Tensor::zeros([1, 512, 32], (Kind::Float, Device::Cpu));
    text.narrow(1, 0, 7).copy_(&cosines(&[1, 7, 32], 0.5));
    (latents, text)
}

/// Specification `wan22`, section 8: values computed with diffusers 0.42.1.
#[test]
fn files_free_golden_values() {
    let folder = tempfile::tempdir().unwrap();
    let model = tiny(folder.path());
    let (latents, text) = inputs();
    let context = model.prepare_context(&text, None).unwrap();
    let mut per_token = vec![0.0_f32; 6];
    per_token.extend([733.0; 12]);
    for (timestep, at, total) in [
        (
            Tensor::from_slice(&[733_i64]),
            [-0.323_905, 0.262_376, -0.182_215, 0.146_599, 0.328_443],
            210.196_15,
        ),
        (
            Tensor::from_slice(&per_token).view([1, 18]),
            [-0.317_947, 0.263_983, -0.182_215, 0.146_599, 0.328_444],
            210.892_23,
        ),
    ] {
        let inputs = ForwardInputs {
            hidden_states: &latents,
            timestep: &timestep,
            temporal_positions: None,
            appended: None,
        };
        let output = model.forward(&inputs, &context).unwrap();
        let (values, sum) = summary(&output, &[0, 1, 100, 500, 1151]);
        for (value, expected) in values.iter().zip(at) {
            assert!((value - expected).abs() < 2e-5, "{values:?}");
        }
        assert!((sum - total).abs() / total < 1e-5, "{sum} is not {total}");
    }
}

/// With the CPU in the place of a GPU: kernels, compositions, and the host's own loops agree,
/// in bf16 as far as its rounding lets them.
#[test]
fn a_gpu_would_compute_the_same() {
    let folder = tempfile::tempdir().unwrap();
    drop(tiny(folder.path()));
    let (latents, text) = inputs();
    let mut per_token = vec![0.0_f32; 6];
    per_token.extend([733.0; 12]);
    let per_token = Tensor::from_slice(&per_token).view([1, 18]);
    for (kind, tolerance) in [(Kind::Float, 1e-5), (Kind::BFloat16, 1e-2)] {
        let target = Target {
            kind,
            device: Device::Cpu,
        };
        let model = WanTransformer::open(folder.path(), target).unwrap();
        for timestep in [&Tensor::from_slice(&[733_i64]), &per_token] {
            let forward = || {
                let context = model.prepare_context(&text, None).unwrap();
                let inputs = ForwardInputs {
                    hidden_states: &latents,
                    timestep,
                    temporal_positions: Some(&[-2, 0, 1]),
                    appended: None,
                };
                model.forward(&inputs, &context).unwrap()
            };
            let expected = forward();
            let Some(found) = as_gpu(|| [forward(), without_kernels(forward)]) else {
                return;
            };
            for found in found {
                assert_eq!(found.kind(), Kind::Float);
                let error = relative_error(&found, &expected);
                assert!(error < tolerance, "{kind:?}: off by {error:e}");
            }
        }
    }
}

#[test]
fn wrong_inputs_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let model = tiny(folder.path());
    let (latents, text) = inputs();
    let context = model.prepare_context(&text, None).unwrap();
    let timestep = Tensor::from_slice(&[1_i64]);
    let attempt = |hidden_states: &Tensor, timestep: &Tensor, positions: Option<&[i64]>| {
        let inputs = ForwardInputs {
            hidden_states,
            timestep,
            temporal_positions: positions,
            appended: None,
        };
        model.forward(&inputs, &context).unwrap_err().to_string()
    };
    let narrow = latents.narrow(1, 0, 15);
    assert!(attempt(&narrow, &timestep, None).contains("15 channels"));
    let low = latents.narrow(3, 0, 1);
    assert!(attempt(&low, &timestep, None).contains("does not fill one patch"));
    let two = Tensor::from_slice(&[1_i64, 2]);
    assert!(attempt(&latents, &two, None).contains("timestep"));
    assert!(attempt(&latents, &timestep, Some(&[0, 1])).contains("2 positions"));
    assert!(model.prepare_context(&text.narrow(2, 0, 31), None).is_err());
    assert!(model.prepare_context(&text, Some(&text)).is_err());
}

#[test]
fn missing_and_unknown_tensors_are_listed() {
    let folder = tempfile::tempdir().unwrap();
    drop(tiny(folder.path()));
    let more_layers = TINY.replace("\"num_layers\": 2", "\"num_layers\": 3");
    std::fs::write(folder.path().join("config.json"), more_layers).unwrap();
    let error = WanTransformer::open(folder.path(), Target::CPU_F32)
        .unwrap_err()
        .to_string();
    assert!(error.contains("blocks.2.attn1.to_q.weight"), "{error}");
    let fewer_layers = TINY.replace("\"num_layers\": 2", "\"num_layers\": 1");
    std::fs::write(folder.path().join("config.json"), fewer_layers).unwrap();
    let error = WanTransformer::open(folder.path(), Target::CPU_F32)
        .unwrap_err()
        .to_string();
    assert!(error.contains("not known: blocks.1."), "{error}");
    std::fs::write(
        folder.path().join("config.json"),
        r#"{"_class_name": "Other"}"#,
    )
    .unwrap();
    let error = WanTransformer::open(folder.path(), Target::CPU_F32)
        .unwrap_err()
        .to_string();
    assert!(error.contains("this is a checkpoint of Other"), "{error}");
}
