//! Parity with the reference packages on the golden folders of `tests/golden`.
//!
//! Each test loads a checkpoint in the hub's layout and must reproduce the stored output.

use std::collections::BTreeMap;

use storyloom_nn::checkpoint::Target;
use storyloom_nn::lora::{LoraSettings, apply_lora};
use storyloom_nn::shard::{Peers, Shard};
use storyloom_nn::testing::{golden, golden_tensors, on_ranks, relative_error};
use storyloom_parallel::topology::Degrees;
use tch::{Device, Tensor};

use crate::autoencoder::AutoencoderKlWan;
use crate::text::{PromptTokenizer, T5Encoder, clean_prompt};
use crate::wan::{ForwardInputs, WanTransformer};

const CPU: Target = Target::CPU_F32;

fn wan_forward(model: &WanTransformer, io: &BTreeMap<String, Tensor>) -> Tensor {
    let image = io.get("encoder_hidden_states_image");
    let context = model
        .prepare_context(&io["encoder_hidden_states"], image)
        .unwrap();
    let positions: Option<Vec<i64>> = io
        .get("temporal_positions")
        .map(|positions| Vec::try_from(positions).unwrap());
    let inputs = ForwardInputs {
        hidden_states: &io["hidden_states"],
        timestep: &io["timestep"],
        temporal_positions: positions.as_deref(),
        appended: None,
    };
    model.forward(&inputs, &context).unwrap()
}

#[track_caller]
pub(crate) fn assert_close(case: &str, found: &Tensor, expected: &Tensor, tolerance: f64) {
    let error = relative_error(found, expected);
    assert!(error <= tolerance, "{case}: relative error {error:.2e}");
}

#[test]
fn wan_transformers() {
    for case in [
        "dit-t2v",
        "dit-t2v-original",
        "dit-t2v-sharded",
        "dit-i2v",
        "dit-ti2v",
        "dit-wan21-i2v",
        "storymem-rope",
    ] {
        let model = WanTransformer::open(&golden(case).join("transformer"), CPU).unwrap();
        let io = golden_tensors(case, "io.safetensors");
        assert_close(case, &wan_forward(&model, &io), &io["output"], 2e-5);
    }
}

/// Every way to share a transformer gives what one rank gives, on text, image, memory and per-token
/// inputs. Two heads per sequence rank and an odd number of tokens per rank are among them.
#[test]
fn shared_transformers() {
    let degrees = |tensor, sequence| Degrees {
        tensor,
        sequence,
        cfg: 1,
    };
    for case in [
        "dit-t2v",
        "dit-i2v",
        "dit-ti2v",
        "dit-wan21-i2v",
        "storymem-rope",
    ] {
        let folder = golden(case).join("transformer");
        let io = golden_tensors(case, "io.safetensors");
        let alone = wan_forward(&WanTransformer::open(&folder, CPU).unwrap(), &io);
        for (tensor, sequence) in [(2, 1), (4, 1), (1, 2), (1, 4), (2, 2)] {
            let degrees = degrees(tensor, sequence);
            for output in on_ranks(degrees.ranks(), |group| {
                let (shard, _) = Shard::join(&group, degrees).unwrap();
                let io = golden_tensors(case, "io.safetensors");
                let model = WanTransformer::open_shard(&folder, CPU, &shard).unwrap();
                wan_forward(&model, &io)
            }) {
                let name = format!("{case}, tensor {tensor}, sequence {sequence}");
                assert_close(&name, &output, &alone, 1e-5);
                assert_close(&name, &output, &io["output"], 2e-5);
            }
        }
    }
}

/// Adapters are divided like the layers that they change.
#[test]
fn shared_adapters() {
    let folder = golden("lora");
    let io = golden_tensors("lora", "io.safetensors");
    for merge in [true, false] {
        let settings = LoraSettings {
            merge,
            ..LoraSettings::AS_FILES_SAY
        };
        let degrees = Degrees {
            tensor: 2,
            ..Degrees::ONE
        };
        for output in on_ranks(2, |group| {
            let (shard, _) = Shard::join(&group, degrees).unwrap();
            let transformer = folder.join("transformer");
            let mut model = WanTransformer::open_shard(&transformer, CPU, &shard).unwrap();
            let adapter = folder.join("lora.safetensors");
            apply_lora(&mut model, &adapter, CPU, settings).unwrap();
            wan_forward(&model, &golden_tensors("lora", "io.safetensors"))
        }) {
            assert_close("lora", &output, &io["output"], 2e-5);
        }
    }
}

/// What a rank reads of the files: its slices, and the small parts that all ranks have.
#[test]
fn a_shard_reads_only_its_slices() {
    let folder = golden("dit-t2v").join("transformer");
    let read = |tensor| {
        let degrees = Degrees {
            tensor,
            ..Degrees::ONE
        };
        on_ranks(tensor, |group| {
            let (shard, _) = Shard::join(&group, degrees).unwrap();
            WanTransformer::open_shard(&folder, CPU, &shard)
                .unwrap()
                .bytes_read()
        })
    };
    let whole = read(1)[0];
    let checkpoint = storyloom_nn::checkpoint::Checkpoint::open(&folder).unwrap();
    assert_eq!(whole, checkpoint.bytes());
    let split = |name: &&String| {
        let row_bias = name.ends_with("to_out.0.bias") || name.ends_with("ffn.net.2.bias");
        (name.contains("attn") || name.contains("ffn")) && !row_bias
    };
    let shared: usize = checkpoint
        .entries()
        .iter()
        .filter(|(name, _)| name.starts_with("blocks.") && split(name))
        .map(|(_, entry)| entry.bytes())
        .sum();
    for tensor in [2, 4] {
        assert_eq!(read(tensor), vec![whole - shared + shared / tensor; tensor]);
    }
}

#[test]
fn degrees_that_do_not_divide_name_those_that_do() {
    let folder = golden("dit-t2v").join("transformer");
    let errors = on_ranks(3, |group| {
        let degrees = Degrees {
            tensor: 3,
            ..Degrees::ONE
        };
        let (shard, _) = Shard::join(&group, degrees).unwrap();
        let opened = WanTransformer::open_shard(&folder, CPU, &shard);
        opened.map(drop).unwrap_err().to_string()
    });
    assert!(errors[0].contains("use one of 1, 2, 4"), "{}", errors[0]);
}

/// StoryMem specification, section 10 item 5: stride 1 is the behaviour of consecutive positions.
#[test]
fn memory_stride_one_equals_consecutive_positions() {
    let model = WanTransformer::open(&golden("storymem-rope").join("transformer"), CPU).unwrap();
    let mut io = golden_tensors("storymem-rope", "io.safetensors");
    let positions = crate::wan::temporal_positions(3, 3, 1);
    io.insert(
        "temporal_positions".to_owned(),
        Tensor::from_slice(&positions),
    );
    assert_close(
        "stride 1",
        &wan_forward(&model, &io),
        &io["output_without_shift"],
        2e-5,
    );
    assert!(relative_error(&io["output"], &io["output_without_shift"]) > 1e-3);
}

#[test]
fn autoencoders() {
    for case in ["vae21", "vae22"] {
        let vae = AutoencoderKlWan::open(&golden(case).join("vae"), Device::Cpu).unwrap();
        let io = golden_tensors(case, "encode.safetensors");
        assert_close(
            case,
            &vae.encode(&io["sample"]).unwrap(),
            &io["output"],
            2e-5,
        );
        let io = golden_tensors(case, "decode.safetensors");
        assert_close(
            case,
            &vae.decode(&io["latents"]).unwrap(),
            &io["output"],
            2e-5,
        );
    }
}

/// Strips of equal and unequal heights, and more ranks than rows: no seams.
#[test]
fn shared_rows_decode_to_the_same_clip() {
    for case in ["vae21", "vae22"] {
        let open = || AutoencoderKlWan::open(&golden(case).join("vae"), Device::Cpu).unwrap();
        let latents = || golden_tensors(case, "decode.safetensors")["latents"].shallow_clone();
        let whole = open().decode(&latents()).unwrap();
        let rows = latents().size()[3];
        for ranks in [2, 3, rows as usize + 1] {
            for found in on_ranks(ranks, |group| {
                let mut pieces = Vec::new();
                let mut keep = |piece| {
                    pieces.push(piece);
                    Ok(())
                };
                open()
                    .decode_shared(&latents(), 1, &Peers::new(Some(group)), &mut keep)
                    .unwrap();
                Tensor::cat(&pieces, 2)
            }) {
                assert_close(
                    &format!("{case}, {rows} rows on {ranks}"),
                    &found,
                    &whole,
                    1e-5,
                );
            }
        }
    }
}

#[derive(serde::Deserialize)]
struct Tokens {
    prompt: String,
    ids: Vec<i64>,
}

#[test]
fn umt5_and_its_tokenizer() {
    let folder = golden("umt5");
    let model = T5Encoder::open(&folder.join("text_encoder"), CPU).unwrap();
    let io = golden_tensors("umt5", "io.safetensors");
    let output = model
        .forward(&io["input_ids"], Some(&io["attention_mask"]))
        .unwrap();
    let mask = io["attention_mask"].unsqueeze(-1);
    assert_close("umt5", &(&output * &mask), &(&io["output"] * &mask), 2e-5);

    let tokenizer = PromptTokenizer::open(&folder.join("tokenizer"), 512).unwrap();
    let text = std::fs::read(folder.join("tokens.json")).unwrap();
    let cases: Vec<Tokens> = serde_json::from_slice(&text).unwrap();
    for Tokens { prompt, ids } in &cases {
        assert_eq!(
            &tokenizer.encode(&clean_prompt(prompt)).unwrap(),
            ids,
            "{prompt:?}"
        );
    }
    let short = PromptTokenizer::open(&folder.join("tokenizer"), 4).unwrap();
    let cut = short.encode(&clean_prompt(&cases[0].prompt)).unwrap();
    assert_eq!(
        (cut.len(), cut.last()),
        (4, Some(&1)),
        "the end token stays"
    );
}

#[derive(serde::Deserialize)]
struct Trajectory {
    kind: crate::sampler::SamplerKind,
    reference: crate::sampler::Reference,
    steps: usize,
    shift: f64,
    sigmas: Vec<f64>,
    timesteps: Vec<f64>,
    start: Vec<f64>,
    trajectory: Vec<Vec<f64>>,
}

#[test]
fn schedulers() {
    use crate::sampler::{SamplerSettings, Schedule, Solver};
    let text = std::fs::read(golden("schedulers.json")).unwrap();
    let cases: Vec<Trajectory> = serde_json::from_slice(&text).unwrap();
    assert!(cases.len() >= 6);
    for case in cases {
        let Trajectory {
            kind,
            reference,
            steps,
            shift,
            ..
        } = case;
        let name = format!("{kind:?} {reference:?} {steps} {shift}");
        let settings = SamplerSettings {
            kind,
            reference,
            steps,
            shift,
        };
        let schedule = Schedule::new(&settings).unwrap();
        let tensor = |values: &[f64]| Tensor::from_slice(values);
        assert_close(
            &name,
            &tensor(schedule.sigmas()),
            &tensor(&case.sigmas),
            1e-6,
        );
        assert_close(
            &name,
            &tensor(schedule.timesteps()),
            &tensor(&case.timesteps),
            1e-6,
        );
        let mut solver = Solver::new(kind, &schedule);
        let mut sample = tensor(&case.start).to_kind(tch::Kind::Float);
        for (step, expected) in case.trajectory.iter().enumerate() {
            let sigma = schedule.sigmas()[step];
            let velocity = sample.tanh() * (0.3 + sigma) - &sample * 0.2 + 0.1;
            sample = solver.step(&velocity, &sample).unwrap();
            assert_close(&name, &sample, &tensor(expected), 1e-5);
        }
    }
}

/// TI2V-5B samples with one transformer and a timestep for each token: the tokens of a given
/// first frame stay at zero.
#[test]
fn the_way_of_ti2v_5b() {
    use crate::sampler::{Reference, SamplerKind, SamplerSettings, Schedule, Solver};
    let case = "pipeline-ti2v5b";
    let io = golden_tensors(case, "io.safetensors");
    let folder = golden(case).join("transformer");
    let model = WanTransformer::open(&folder, CPU).unwrap();
    let vae = AutoencoderKlWan::open(&golden("vae22").join("vae"), Device::Cpu).unwrap();
    let settings = SamplerSettings {
        kind: SamplerKind::UniPc,
        reference: Reference::Diffusers,
        steps: 8,
        shift: 5.0,
    };
    let schedule = Schedule::new(&settings).unwrap();
    let contexts = ["prompt_embeds", "negative_prompt_embeds"]
        .map(|name| model.prepare_context(&io[name], None).unwrap());
    let frame = io["image_tensor"].unsqueeze(2);
    let given = vae.normalize(&vae.encode(&frame).unwrap()).unwrap();
    let first = Tensor::zeros_like(&io["latents"]);
    let _ = first.narrow(2, 0, 1).fill_(1.0);
    for (with_image, expected) in [(false, "output_latents_t2v"), (true, "output_latents_i2v")] {
        let placed = |sample: &Tensor| match with_image {
            true => sample.where_self(&first.eq(0.0), &given.expand_as(sample)),
            false => sample.shallow_clone(),
        };
        let mut solver = Solver::new(settings.kind, &schedule);
        let mut sample = io["latents"].shallow_clone();
        for &time in schedule.timesteps() {
            // Three latent frames of one by two tokens.
            let still = if with_image { 0.0 } else { time };
            let times = [still, still, time, time, time, time];
            let timestep = Tensor::from_slice(&times).unsqueeze(0);
            let hidden_states = placed(&sample);
            let inputs = ForwardInputs {
                hidden_states: &hidden_states,
                timestep: &timestep,
                temporal_positions: None,
                appended: None,
            };
            let [positive, negative] =
                [0, 1].map(|which: usize| model.forward(&inputs, &contexts[which]).unwrap());
            let velocity = &negative + (positive - &negative) * 5.0;
            sample = solver.step(&velocity, &sample).unwrap();
        }
        let error = relative_error(&placed(&sample), &io[expected]);
        assert!(error < 1e-4, "{expected}: {error:.2e}");
    }
}
