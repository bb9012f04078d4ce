//! Tests of the selector, the patchifiers, and the transformer with what they make.

use storyloom_nn::layers::without_kernels;
use storyloom_nn::stand_in::as_gpu;
use storyloom_nn::testing::{cosines, fill_checkpoint, relative_error};
use storyloom_story::onestory::{Budget, ChosenFrame, ContextTime, Counts, Kernel, choose};
use tch::{Device, Kind, Tensor};

use super::*;
use crate::wan::{AppendedTokens, ForwardInputs, TextContext, WanConfig, WanTransformer};

/// Specification `onestory`, section 8, item 18.
const CONFIG: &str = r#"{"_class_name": "OneStoryMemory", "width": 64, "queries": 4, "head_dim": 32,
    "text_dim": 32, "vision_width": 24, "shot_ages": 3, "frame_times": 5}"#;
const TRANSFORMER: &str = r#"{"_class_name": "WanTransformer3DModel", "patch_size": [1, 2, 2],
    "num_attention_heads": 2, "attention_head_dim": 32, "in_channels": 36, "out_channels": 16,
    "text_dim": 32, "freq_dim": 256, "ffn_dim": 96, "num_layers": 2, "cross_attn_norm": true,
    "qk_norm": "rms_norm_across_heads", "eps": 1e-6}"#;
const PLANE: [u32; 2] = [8, 12];
const FRAMES: i64 = 5;

fn memory() -> OneStoryMemory {
    let folder = tempfile::tempdir().unwrap();
    let config: OneStoryConfig = serde_json::from_str(CONFIG).unwrap();
    fill_checkpoint(folder.path(), CONFIG, 0.3, |weights| {
        OneStoryMemory::load(weights, &config).map(drop)
    });
    OneStoryMemory::open(folder.path(), Target::CPU_F32).unwrap()
}

fn transformer() -> WanTransformer {
    let folder = tempfile::tempdir().unwrap();
    let config: WanConfig = serde_json::from_str(TRANSFORMER).unwrap();
    fill_checkpoint(folder.path(), TRANSFORMER, 0.08, |weights| {
        WanTransformer::load(weights, config.clone()).map(drop)
    });
    WanTransformer::open(folder.path(), Target::CPU_F32).unwrap()
}

fn shot(phase: f64) -> Tensor {
    cosines(&[1, 16, FRAMES, 8, 12], phase)
}

fn caption(phase: f64) -> Tensor {
    let text = Tensor::zeros([1, 20, 32], (Kind::Float, Device::Cpu));
    text.narrow(1, 0, 7).copy_(&cosines(&[1, 7, 32], phase));
    text
}

fn values(scores: &Tensor) -> Vec<f32> {
    Vec::try_from(scores.flatten(0, -1)).unwrap()
}

/// Items 5 and 6: cosines; captions decide; padding does not.
#[test]
fn scores_are_cosines_that_the_caption_decides() {
    let selector = memory().selector;
    let history = [shot(0.0), shot(1.0), shot(2.5)];
    let scores = selector.forward(&caption(0.5), &history).unwrap();
    assert_eq!(scores.size(), [1, 15]);
    let found = values(&scores);
    assert!(
        found.iter().all(|score| (-1.0..=1.0).contains(score)),
        "{found:?}"
    );
    assert_eq!(
        values(&selector.forward(&caption(0.5), &history).unwrap()),
        found
    );
    let other = selector.forward(&caption(0.9), &history).unwrap();
    assert!(relative_error(&other, &scores) > 1e-3);
    let short = caption(0.5).narrow(1, 0, 7);
    let unpadded = selector.forward(&short, &history).unwrap();
    assert!(relative_error(&unpadded, &scores) < 1e-6);
    let scaled = memory().selector.scored_by(ScoreNorm::ScaledDot);
    let plain = memory().selector.scored_by(ScoreNorm::None);
    let [scaled, plain] = [scaled, plain].map(|of| of.forward(&caption(0.5), &history).unwrap());
    assert!(relative_error(&(scaled * 8.0), &plain) < 1e-6);
    assert!(plain.abs().max().double_value(&[]) > 1.0);
}

/// Item 5: without the embeddings of age and time, frames are a set; and so are queries, always.
#[test]
fn the_order_of_frames_counts_only_where_it_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let config: OneStoryConfig = serde_json::from_str(CONFIG).unwrap();
    fill_checkpoint(folder.path(), CONFIG, 0.3, |weights| {
        OneStoryMemory::load(weights, &config).map(drop)
    });
    let file = folder.path().join("diffusion_pytorch_model.safetensors");
    let load = |change: &dyn Fn(&str, Tensor) -> Tensor| {
        let tensors = storyloom_nn::tensor_file::read_tensors(&file).unwrap();
        let tensors = tensors
            .into_iter()
            .map(|(name, tensor)| (name.clone(), change(&name, tensor)))
            .collect();
        let checkpoint = Checkpoint::from_tensors(tensors, serde_json::Value::Null);
        OneStoryMemory::load(&checkpoint.weights(Target::CPU_F32), &config).unwrap()
    };
    let timeless = |name: &str, tensor: Tensor| match name {
        "selector.shot_age" | "selector.frame_time" => tensor.zeros_like(),
        _ => tensor,
    };
    let (one, two) = (shot(0.0), shot(1.7));
    let turned = Tensor::cat(&[&two.flip([2]), &one.flip([2])], 2);
    let turned: Vec<Tensor> = turned.chunk(2, 2);
    let scores = |memory: &OneStoryMemory, history: &[Tensor]| {
        memory.selector.forward(&caption(0.5), history).unwrap()
    };
    let history = [one.shallow_clone(), two.shallow_clone()];
    let free = load(&timeless);
    let (straight, reversed) = (scores(&free, &history), scores(&free, &turned));
    assert!(relative_error(&reversed.flip([1]), &straight) < 1e-5);
    let told = load(&|_, tensor| tensor);
    let (straight, reversed) = (scores(&told, &history), scores(&told, &turned));
    assert!(relative_error(&reversed.flip([1]), &straight) > 1e-3);
    let shuffled = load(&|name, tensor| match name {
        "selector.queries" => tensor.flip([0]),
        _ => tensor,
    });
    assert!(relative_error(&scores(&shuffled, &history), &straight) < 1e-6);
}

/// A history that is looked at in one piece, and shot by shot.
#[test]
fn looking_shot_by_shot_is_looking_at_all() {
    let mut memory = memory().selector;
    // Ages would tell the pieces apart.
    memory.forget_ages();
    let asked = memory.ask(&caption(0.5)).unwrap();
    let frames = cosines(&[1, 16, 1, 8, 12], 0.0);
    let shots = [
        frames.shallow_clone(),
        &frames * 1.9,
        frames.roll([3], [4]),
        &frames * -3.0,
    ];
    let whole = Tensor::cat(&shots, 2);
    let whole = [memory.look(&asked, &whole, 1).unwrap()];
    let pieces: Vec<Glance> = shots
        .iter()
        .map(|shot| memory.look(&asked, shot, 1).unwrap())
        .collect();
    let [whole, pieces] = [&whole[..], &pieces].map(|of| memory.scores(&asked, of).unwrap());
    assert!(relative_error(&pieces, &whole) < 1e-6);
}

#[test]
fn what_cannot_be_scored_is_said() {
    let selector = memory().selector;
    let asked = selector.ask(&caption(0.5)).unwrap();
    let none = selector.scores(&asked, &[]).unwrap_err().to_string();
    assert!(none.contains("without history"), "{none}");
    let blank = Tensor::zeros([2, 5, 32], (Kind::Float, Device::Cpu));
    blank.get(0).get(0).copy_(&cosines(&[32], 0.1));
    let empty = selector.ask(&blank).unwrap_err().to_string();
    assert!(empty.contains("no rows"), "{empty}");
    let config = r#"{"_class_name": "OneStoryMemory", "width": 64, "head_dim": 48}"#;
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("config.json"), config).unwrap();
    let wrong = OneStoryConfig::read_file(&folder.path().join("config.json")).unwrap_err();
    assert!(wrong.to_string().contains("heads of 48"), "{wrong}");
}

fn patchifiers_of(patch: &Tensor, bias: &Tensor) -> Patchifiers {
    let config: OneStoryConfig = serde_json::from_str(CONFIG).unwrap();
    let mut tensors = vec![(
        "context_token".to_owned(),
        Tensor::zeros([64], (Kind::Float, Device::Cpu)),
    )];
    for kernel in Kernel::ALL {
        let name = format!("patchifiers.{kernel}");
        tensors.push((
            format!("{name}.weight"),
            spread_patch(patch, kernel).unwrap(),
        ));
        tensors.push((format!("{name}.bias"), bias.shallow_clone()));
    }
    let checkpoint =
        Checkpoint::from_tensors(tensors.into_iter().collect(), serde_json::Value::Null);
    Patchifiers::load(&checkpoint.weights(Target::CPU_F32), &config).unwrap()
}

/// Item 10: a constant latent gives the same token at every level, and p2 is the transformer's own patch.
#[test]
fn a_constant_frame_begins_with_the_same_token_at_every_level() {
    let (patch, bias) = (cosines(&[64, 16, 1, 2, 2], 0.3), cosines(&[64], 1.0));
    let patchifiers = patchifiers_of(&patch, &bias);
    let constant = cosines(&[1, 16, 1, 1], 0.2).expand([1, 16, 32, 48], false);
    let [first, others @ ..] =
        Kernel::ALL.map(|kernel| patchifiers.tokens(kernel, &constant).unwrap());
    assert_eq!(first.size(), [1, 16 * 24, 64]);
    for (tokens, cells) in others.into_iter().zip([8 * 12, 4 * 6, 2 * 3]) {
        assert_eq!(tokens.size(), [1, cells, 64]);
        let one = first.narrow(1, 0, 1).expand_as(&tokens);
        assert!(relative_error(&tokens, &one) < 1e-5);
    }
    let frame = cosines(&[1, 16, 8, 12], 0.9);
    let tokens = patchifiers.tokens(Kernel::P2, &frame).unwrap();
    let expected = frame.conv2d(
        &patch.squeeze_dim(2),
        Some(&bias),
        [2, 2],
        [0, 0],
        [1, 1],
        1,
    );
    let expected = expected.flatten(2, 3).transpose(1, 2);
    assert!(relative_error(&tokens, &expected) < 1e-6);
}

/// Frames that do not fill their last patches are filled up with zeros.
#[test]
fn frames_are_filled_up_at_the_right_and_at_the_bottom() {
    let (patch, bias) = (cosines(&[64, 16, 1, 2, 2], 0.3), cosines(&[64], 1.0));
    let patchifiers = patchifiers_of(&patch, &bias);
    let frame = cosines(&[1, 16, 7, 9], 0.9);
    for kernel in Kernel::ALL {
        let side = i64::from(kernel.side());
        let [rows, columns] = kernel.grid([7, 9]).map(i64::from);
        let padded = frame.constant_pad_nd([0, columns * side - 9, 0, rows * side - 7]);
        let found = patchifiers.tokens(kernel, &frame).unwrap();
        assert_eq!(found.size()[1], rows * columns, "{kernel}");
        assert_eq!(found, patchifiers.tokens(kernel, &padded).unwrap());
    }
}

/// The context of item 18 and where it stands.
struct Context {
    tokens: Tensor,
    positions: Tensor,
}

impl Context {
    fn new(chosen: &[ChosenFrame]) -> Self {
        let latents: Vec<Tensor> = (0..chosen.len())
            .map(|place| cosines(&[16, 8, 12], place as f64))
            .collect();
        let positions = context_positions(chosen, 15, PLANE, ContextTime::default()).unwrap();
        Self {
            tokens: memory().patchifiers.forward(chosen, &latents).unwrap(),
            positions: positions.unsqueeze(0),
        }
    }

    fn appended(&self, is_clean: bool) -> Option<AppendedTokens<'_>> {
        Some(AppendedTokens {
            tokens: &self.tokens,
            positions: &self.positions,
            is_clean,
        })
    }
}

fn chosen() -> Vec<ChosenFrame> {
    let scores: Vec<f32> = (0..15).map(|frame| ((frame * 7) % 15) as f32).collect();
    choose(&scores, Budget::default().counts(PLANE).unwrap())
}

fn forward(model: &WanTransformer, text: &TextContext, appended: Option<AppendedTokens>) -> Tensor {
    let latents = cosines(&[1, 36, FRAMES, 8, 12], 0.0);
    let inputs = ForwardInputs {
        hidden_states: &latents,
        timestep: &Tensor::from_slice(&[733.0_f64]),
        temporal_positions: None,
        appended,
    };
    model.forward(&inputs, text).unwrap()
}

/// Items 3 and 11: a unit of context is one frame of tokens here, the output is the shot alone, and no context
/// is the plain transformer, bit for bit.
#[test]
fn a_shot_without_context_is_what_wan_makes() {
    let (model, context) = (transformer(), Context::new(&chosen()));
    assert_eq!(context.tokens.size(), [1, 24, 64]);
    let text = model.prepare_context(&caption(0.5), None).unwrap();
    let plain = forward(&model, &text, None);
    assert_eq!(plain.size(), [1, 16, FRAMES, 8, 12]);
    for is_clean in [false, true] {
        let with = forward(&model, &text, context.appended(is_clean));
        assert_eq!(with.size(), plain.size());
        assert!(relative_error(&with, &plain) > 1e-4);
        let none = Context {
            tokens: context.tokens.narrow(1, 0, 0),
            positions: context.positions.narrow(1, 0, 0),
        };
        assert_eq!(forward(&model, &text, none.appended(is_clean)), plain);
    }
    let [shared, clean] =
        [false, true].map(|is_clean| forward(&model, &text, context.appended(is_clean)));
    assert_ne!(shared, clean);
}

/// Item 12: the sample's tokens come first, and context is a set of tokens with positions.
#[test]
fn context_tokens_may_stand_in_any_order() {
    let (model, context) = (transformer(), Context::new(&chosen()));
    let text = model.prepare_context(&caption(0.5), None).unwrap();
    let straight = forward(&model, &text, context.appended(false));
    let turned = Context {
        tokens: context.tokens.flip([1]),
        positions: context.positions.flip([1]),
    };
    let found = forward(&model, &text, turned.appended(false));
    assert!(relative_error(&found, &straight) < 1e-5);
    let moved = Context {
        positions: context.positions.shallow_clone(),
        ..turned
    };
    let found = forward(&model, &text, moved.appended(false));
    assert!(relative_error(&found, &straight) > 1e-5);
}

/// Samples of a batch may each have a context of their own, at places of their own.
#[test]
fn each_sample_of_a_batch_has_its_own_context() {
    let model = transformer();
    let first = Context::new(&chosen());
    let other = choose(&[0.0, 5.0, 1.0, 4.0, 2.0, 3.0], Counts([0, 3, 3, 0]));
    let second = Context::new(&other);
    let latents = [0.0, 1.0].map(|phase| cosines(&[1, 36, FRAMES, 8, 12], phase));
    let captions = [caption(0.5), caption(1.5)];
    let times = [733.0_f64, 211.0];
    for is_clean in [false, true] {
        let run = |latents: &Tensor, captions: &Tensor, times: &[f64], context: &Context| {
            let text = model.prepare_context(captions, None).unwrap();
            let inputs = ForwardInputs {
                hidden_states: latents,
                timestep: &Tensor::from_slice(times),
                temporal_positions: None,
                appended: context.appended(is_clean),
            };
            model.forward(&inputs, &text).unwrap()
        };
        let together = Context {
            tokens: Tensor::cat(&[&first.tokens, &second.tokens], 0),
            positions: Tensor::cat(&[&first.positions, &second.positions], 0),
        };
        let both = run(
            &Tensor::cat(&latents, 0),
            &Tensor::cat(&captions, 0),
            &times,
            &together,
        );
        for (place, context) in [&first, &second].into_iter().enumerate() {
            let alone = run(
                &latents[place],
                &captions[place],
                &times[place..=place],
                context,
            );
            let found = both.narrow(0, place as i64, 1);
            assert!(relative_error(&found, &alone) < 1e-5, "sample {place}");
        }
    }
}

/// With the CPU in the place of a GPU: kernels and compositions agree.
#[test]
fn a_gpu_would_compute_the_same() {
    let (model, context) = (transformer(), Context::new(&chosen()));
    for is_clean in [false, true] {
        let run = || {
            let text = model.prepare_context(&caption(0.5), None).unwrap();
            forward(&model, &text, context.appended(is_clean))
        };
        let expected = run();
        let Some(found) = as_gpu(|| [run(), without_kernels(run)]) else {
            return;
        };
        for found in found {
            assert!(relative_error(&found, &expected) < 1e-5);
        }
    }
}

#[test]
fn context_that_does_not_fit_is_refused_by_name() {
    let (model, context) = (transformer(), Context::new(&chosen()));
    let text = model.prepare_context(&caption(0.5), None).unwrap();
    let latents = cosines(&[1, 36, FRAMES, 8, 12], 0.0);
    let told = |tokens: &Tensor, positions: &Tensor, timestep: &Tensor, is_clean: bool| {
        let inputs = ForwardInputs {
            hidden_states: &latents,
            timestep,
            temporal_positions: None,
            appended: Some(AppendedTokens {
                tokens,
                positions,
                is_clean,
            }),
        };
        model
            .forward(&inputs, &text)
            .map_err(|error| error.to_string())
    };
    let (tokens, positions) = (&context.tokens, &context.positions);
    let one = Tensor::from_slice(&[733.0_f64]);
    let narrow = tokens.narrow(2, 0, 63);
    assert!(
        told(&narrow, positions, &one, false)
            .unwrap_err()
            .contains("appended tokens")
    );
    let few = positions.narrow(1, 0, 23);
    assert!(
        told(tokens, &few, &one, false)
            .unwrap_err()
            .contains("positions")
    );
    let each = one.expand([1, FRAMES * 24], false);
    assert!(
        told(tokens, positions, &each, false)
            .unwrap_err()
            .contains("timestep per token")
    );
    let clean = told(tokens, positions, &each, true).unwrap();
    let shared = told(tokens, positions, &one, true).unwrap();
    assert!(relative_error(&clean, &shared) < 1e-6);
}

/// Scores are stored and proven: programs with other numbers of threads must agree about every bit.
#[test]
fn threads_move_no_bit_of_a_score() {
    let config = r#"{"_class_name": "OneStoryMemory", "width": 96, "queries": 16, "head_dim": 24,
        "text_dim": 32, "vision_width": 24, "shot_ages": 16, "frame_times": 5}"#;
    let folder = tempfile::tempdir().unwrap();
    let parsed: OneStoryConfig = serde_json::from_str(config).unwrap();
    fill_checkpoint(folder.path(), config, 0.3, |weights| {
        OneStoryMemory::load(weights, &parsed).map(drop)
    });
    let scores = |threads: i32, shots: usize| {
        let work = || {
            tch::set_num_threads(threads);
            let memory = OneStoryMemory::open(folder.path(), Target::CPU_F32).unwrap();
            let history: Vec<Tensor> = (0..shots).map(|at| shot(at as f64)).collect();
            values(&memory.selector.forward(&caption(0.5), &history).unwrap())
        };
        std::thread::scope(|scope| scope.spawn(work).join().unwrap())
    };
    for shots in 1..12 {
        assert_eq!(scores(1, shots), scores(2, shots), "{shots} shots");
    }
}
