//! FLUX transformers against diffusers, by the vectors of the specification (`flux`, 10.2 and 10.3).

use serde_json::{Value, json};
use storyloom_nn::checkpoint::{Checkpoint, SingleFilePart, Target};
use storyloom_nn::shard::Shard;
use storyloom_nn::tensor_file::write_tensors;
use storyloom_nn::testing::flux::{FluxSizes, made_of, original_transformer};
use storyloom_nn::testing::on_ranks;
use storyloom_nn::testing::vectors::{
    asked_tensors, assert_vector, flux_vector, wave, write_vector_checkpoint,
};
use storyloom_parallel::topology::Degrees;
use storyloom_story::narrative_weaver::BankSettings;
use tch::{Kind, Tensor};

use super::{FluxConfig, FluxInputs, FluxPositions, FluxTransformer};

const CPU: Target = Target::CPU_F32;
const TOLERANCE: f64 = 1e-5;

fn case(name: &str) -> Value {
    flux_vector(&format!("modules/cases/{name}"))
}

/// `config.json` of the tiny model that most cases have.
pub(crate) fn dev_config() -> Value {
    let mut config = case("flux_dev_like")["config"].clone();
    config["_class_name"] = json!(FluxConfig::CLASS);
    config
}

pub(super) fn schnell_config() -> Value {
    let mut config = dev_config();
    for (key, value) in [
        ("guidance_embeds", json!(false)),
        ("num_layers", json!(1)),
        ("num_single_layers", json!(1)),
    ] {
        config[key] = value;
    }
    config
}

/// A folder with the model of this config, whose weights follow from their names.
pub(super) fn written(config: &Value) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let parsed: FluxConfig = serde_json::from_value(config.clone()).unwrap();
    write_vector_checkpoint(folder.path(), config, |weights| {
        FluxTransformer::load(weights, parsed.clone()).map(drop)
    });
    folder
}

pub(crate) fn model(config: &Value) -> FluxTransformer {
    FluxTransformer::open(written(config).path(), CPU).unwrap()
}

/// Inputs of a forward that own their tensors.
pub(super) struct Sample {
    hidden: Tensor,
    text: Tensor,
    pooled: Tensor,
    timestep: Tensor,
    guidance: Option<Tensor>,
    image: FluxPositions,
    rows: FluxPositions,
}

impl Sample {
    /// Two samples on a grid of 3 x 4 with five rows of text.
    pub(super) fn dev() -> Self {
        Self {
            hidden: wave(0.3, 1.0, &[2, 12, 16]),
            text: wave(0.2, 0.5, &[2, 5, 24]),
            pooled: wave(0.4, 0.2, &[2, 12]),
            timestep: Tensor::from_slice(&[0.9387_f32, 0.25]),
            guidance: Some(Tensor::from_slice(&[3.5_f32, 1.0])),
            image: FluxPositions::grid(0.0, [3, 4]),
            rows: FluxPositions::text(5),
        }
    }

    /// One picture with its condition and three levels of memory, and four rows that stand for text.
    fn memory() -> Self {
        let memory = BankSettings {
            lambda: 4.0,
            frames: 3,
        };
        let places = memory.levels([4, 4]).unwrap().stream_ids(4, true);
        Self {
            hidden: wave(0.3, 1.0, &[1, 53, 16]),
            text: wave(0.2, 0.5, &[1, 4, 24]),
            pooled: wave(0.4, 0.2, &[1, 12]),
            timestep: Tensor::from_slice(&[0.9387_f32]),
            guidance: Some(Tensor::from_slice(&[3.5_f32])),
            image: FluxPositions::new(places),
            rows: FluxPositions::text(4),
        }
    }

    /// Sample `which` alone.
    fn only(&self, which: i64) -> Self {
        let run = |tensor: &Tensor| tensor.narrow(0, which, 1);
        Self {
            hidden: run(&self.hidden),
            text: run(&self.text),
            pooled: run(&self.pooled),
            timestep: run(&self.timestep),
            guidance: self.guidance.as_ref().map(run),
            image: self.image.clone(),
            rows: self.rows.clone(),
        }
    }

    fn inputs(&self) -> FluxInputs<'_> {
        FluxInputs {
            hidden_states: &self.hidden,
            encoder_hidden_states: &self.text,
            pooled_projections: &self.pooled,
            timestep: &self.timestep,
            guidance: self.guidance.as_ref(),
            image_positions: &self.image,
            text_positions: &self.rows,
        }
    }

    pub(super) fn run(&self, model: &FluxTransformer) -> Tensor {
        model.forward(&self.inputs()).unwrap()
    }
}

fn floats(tensor: &Tensor) -> Vec<f32> {
    Vec::try_from(tensor).unwrap()
}

#[track_caller]
pub(super) fn assert_equal(what: &str, found: &Tensor, expected: &Tensor) {
    let difference = (found - expected).abs().max().double_value(&[]);
    assert!(difference < TOLERANCE, "{what}: off by {difference:.2e}");
}

#[test]
fn outputs_are_those_of_diffusers() {
    let (dev, schnell) = (model(&dev_config()), model(&schnell_config()));
    let output = Sample::dev().run(&dev);
    assert_vector("dev", &output, &case("flux_dev_like")["output"], TOLERANCE);

    let mut sample = Sample::dev().only(0);
    sample.guidance = None;
    let expected = &case("flux_schnell_like")["output"];
    assert_vector("schnell", &sample.run(&schnell), expected, TOLERANCE);

    let (memory, expected) = (Sample::memory(), case("flux_nw_like"));
    let noisy = memory.run(&dev).narrow(1, 0, 16);
    assert_vector(
        "memory",
        &noisy,
        &expected["output_of_noisy_tokens"],
        TOLERANCE,
    );
    let alone = Sample {
        hidden: memory.hidden.narrow(1, 0, 16),
        image: FluxPositions::grid(0.0, [4, 4]),
        ..memory
    };
    assert_vector(
        "alone",
        &alone.run(&dev),
        &expected["noisy_alone"],
        TOLERANCE,
    );
}

#[test]
fn values_inside_are_those_of_diffusers() {
    let (model, sample) = (model(&dev_config()), Sample::dev());
    let inside = &case("flux_dev_like")["inside"];
    let agrees = |name: &str, found: &Tensor| assert_vector(name, found, &inside[name], TOLERANCE);
    let (sigmas, guidance) = (
        floats(&sample.timestep),
        sample.guidance.as_ref().map(floats),
    );
    let condition = model.embed_conditions(&sigmas, guidance.as_deref(), &sample.pooled);
    agrees("temb", &condition.unwrap());
    let modulation = model
        .step_modulation(&sigmas, guidance.as_deref(), &sample.pooled)
        .unwrap();
    let context = model
        .context(&sample.text, &sample.rows, &sample.image)
        .unwrap();
    let (doubles, singles) = model.blocks();
    let mut streams = [model.embed(&sample.hidden).unwrap(), context.text.copy()];
    for (number, (block, vectors)) in doubles.iter().zip(&modulation.doubles).enumerate() {
        streams = block.forward(streams, vectors, &context.places).unwrap();
        agrees(&format!("double{number}.image"), &streams[0]);
        agrees(&format!("double{number}.text"), &streams[1]);
    }
    let [image, text] = streams;
    let mut hidden = Tensor::cat(&[text, image], 1);
    for (number, (block, vectors)) in singles.iter().zip(&modulation.singles).enumerate() {
        hidden = block.forward(hidden, vectors, &context.places).unwrap();
        if number == 0 {
            agrees("single0.image", &hidden.narrow(1, 5, 12));
        }
    }
    let image = hidden.narrow(1, 5, 12).contiguous();
    agrees(
        "norm_out",
        &modulation.last.normed(&image, Kind::Float).unwrap(),
    );
}

/// Specification `flux`, 1.1: tensors and parameters of the tiny model and of the real ones, by shapes alone.
#[test]
fn layouts_have_the_counts_of_the_published_models() {
    let counts = |config: FluxConfig| {
        let folder = std::path::Path::new("none");
        let empty = Checkpoint::from_files(folder, Value::Null, &[]).unwrap();
        let weights = empty.weights(Target {
            device: tch::Device::Cpu,
            kind: Kind::BFloat16,
        });
        FluxTransformer::load(&weights, config).unwrap();
        let shapes = weights.asked_for();
        let parameters = shapes
            .iter()
            .map(|(_, shape)| shape.iter().product::<i64>());
        (shapes.len(), parameters.sum::<i64>())
    };
    let tiny = &case("flux_dev_like");
    let parsed = serde_json::from_value(dev_config()).unwrap();
    let expected = [&tiny["tensors"], &tiny["parameters"]].map(|count| count.as_i64().unwrap());
    let (tensors, parameters) = counts(parsed);
    assert_eq!([tensors as i64, parameters], expected);

    // A real model does not fit a small machine: two blocks of each kind tell what one of them adds.
    let single_file = flux_vector("single_file");
    for name in ["dev", "schnell"] {
        let config = FluxConfig::named(name).unwrap();
        let of = |doubles, singles| {
            counts(FluxConfig {
                num_layers: doubles,
                num_single_layers: singles,
                ..config.clone()
            })
        };
        let (none, double, single) = (of(0, 0), of(1, 0), of(0, 1));
        let difference = |some: (usize, i64)| (some.0 - none.0, some.1 - none.1);
        let (double, single) = (difference(double), difference(single));
        let expected = &single_file["parameters"];
        assert_eq!(json!(double.1), expected["double_block"]);
        assert_eq!(json!(single.1), expected["single_block"]);
        let (doubles, singles) = (
            config.num_layers as usize,
            config.num_single_layers as usize,
        );
        let tensors = none.0 + doubles * double.0 + singles * single.0;
        assert_eq!(json!(tensors), single_file["tensors"][name][0]);
        let parameters =
            none.1 + config.num_layers * double.1 + config.num_single_layers * single.1;
        assert_eq!(json!(parameters), expected[name]);
    }
}

/// Specification `flux`, test 6: only differences of places count.
#[test]
fn places_count_relative_to_each_other() {
    let model = model(&dev_config());
    let mut sample = Sample::memory();
    let expected = sample.run(&model);
    let moved = |positions: &FluxPositions, by: f64| {
        let places: Vec<f64> = positions.places().as_flattened().to_vec();
        let ids = Tensor::from_slice(&places).view([-1, 3]);
        let shift = Tensor::from_slice(&[by, 0.0, 0.0]);
        FluxPositions::of_tensor("ids", &(ids + shift)).unwrap()
    };
    let [image, rows] = [&sample.image, &sample.rows].map(|positions| moved(positions, 3.0));
    sample.image = image;
    let grossly = (sample.run(&model) - &expected).abs().max();
    assert!(grossly.double_value(&[]) > 1e-3, "{grossly}");
    sample.rows = rows;
    assert_equal("all moved", &sample.run(&model), &expected);
}

/// Specification `flux`, test 7: tokens have no order but their places, and samples do not see each other.
#[test]
fn tokens_are_a_set_and_samples_are_apart() {
    let (model, sample) = (model(&dev_config()), Sample::dev());
    let expected = sample.run(&model);
    let order: Vec<i64> = (0..12).map(|token| token * 5 % 12).collect();
    let places: Vec<f64> = order
        .iter()
        .flat_map(|&token| sample.image.places()[token as usize])
        .collect();
    let ids = Tensor::from_slice(&places).view([-1, 3]);
    let order = Tensor::from_slice(&order);
    let mixed = Sample {
        hidden: sample.hidden.index_select(1, &order),
        image: FluxPositions::of_tensor("img_ids", &ids).unwrap(),
        ..Sample::dev()
    };
    assert_equal(
        "image",
        &mixed.run(&model),
        &expected.index_select(1, &order),
    );
    let backwards = Sample {
        text: sample.text.flip([1]),
        ..Sample::dev()
    };
    assert_equal("text", &backwards.run(&model), &expected);
    for which in 0..2 {
        let alone = sample.only(which).run(&model);
        assert_equal("alone", &alone, &expected.narrow(0, which, 1));
    }
}

/// Specification `flux`, test 16: the vectors of all steps at once are those of each, and a cut output is the
/// beginning of the whole.
#[test]
fn a_table_of_modulations_is_that_of_every_step() {
    let (model, sample) = (model(&dev_config()), Sample::dev());
    let (sigmas, guidance) = ([1.0, 0.849_234_8, 0.25], [3.5, 1.0]);
    let table = model
        .modulations(&sigmas, Some(&guidance), &sample.pooled)
        .unwrap();
    assert_eq!((table.steps(), table.batch()), (3, 2));
    let context = model
        .context(&sample.text, &sample.rows, &sample.image)
        .unwrap();
    for (step, sigma) in sigmas.into_iter().enumerate() {
        let image = || model.embed(&sample.hidden).unwrap();
        let modulation = table.step(step).unwrap();
        let found = model.velocity(image(), &modulation, &context, 12).unwrap();
        let alone = model
            .step_modulation(&[sigma; 2], Some(&guidance), &sample.pooled)
            .unwrap();
        let expected = model.velocity(image(), &alone, &context, 12).unwrap();
        assert!((&found - expected).abs().max().double_value(&[]) < 1e-6);
        let cut = model.velocity(image(), &modulation, &context, 7).unwrap();
        assert_equal("cut", &cut, &found.narrow(1, 0, 7));
    }
    assert!(table.step(3).is_err());
}

/// Guidance 3.5 and 3.504 are the same to a bf16 run of the reference.
#[test]
fn reference_rounding_reaches_guidance() {
    let folder = written(&dev_config());
    let open = || FluxTransformer::open(folder.path(), CPU).unwrap();
    let at = |model: &FluxTransformer, guidance: f32| {
        let mut sample = Sample::dev();
        sample.guidance = Some(Tensor::from_slice(&[guidance, 1.0]));
        sample.run(model)
    };
    let (exact, rounded) = (open(), open().with_reference_rounding());
    assert_eq!(at(&rounded, 3.504), at(&rounded, 3.5));
    assert_ne!(at(&exact, 3.504), at(&exact, 3.5));
    assert_ne!(at(&exact, 3.5), at(&rounded, 3.5));
}

#[test]
fn inputs_that_do_not_fit_are_named() {
    let (dev, schnell) = (model(&dev_config()), model(&schnell_config()));
    let error = |model: &FluxTransformer, sample: Sample| {
        let error = model.forward(&sample.inputs()).unwrap_err();
        error.to_string()
    };
    let without = || Sample {
        guidance: None,
        ..Sample::dev()
    };
    assert!(error(&dev, without()).contains("guidance"));
    assert!(error(&schnell, Sample::dev()).contains("schnell"));
    let sample = Sample {
        image: FluxPositions::grid(0.0, [3, 3]),
        ..Sample::dev()
    };
    assert!(error(&dev, sample).contains("[2, 9, 64]"));
    let sample = Sample {
        rows: FluxPositions::text(4),
        ..Sample::dev()
    };
    assert!(error(&dev, sample).contains("encoder_hidden_states"));
    let sample = Sample {
        pooled: wave(0.4, 0.2, &[2, 11]),
        ..Sample::dev()
    };
    assert!(error(&dev, sample).contains("pooled_projections"));
    let sample = Sample {
        timestep: Tensor::from_slice(&[0.5_f32]),
        ..Sample::dev()
    };
    assert!(error(&dev, sample).contains("timestep"));
}

/// Specification `flux`, test 15: ranks that share layers or tokens give what one gives, and each reads its slices
/// only. Twelve tokens divide by the ranks and five rows of text do not; nor do fifty-three tokens.
#[test]
fn shared_transformers() {
    let folder = written(&dev_config());
    let alone = FluxTransformer::open(folder.path(), CPU).unwrap();
    let samples = || [Sample::dev(), Sample::memory()];
    let expected = samples().map(|sample| sample.run(&alone));
    for (tensor, sequence) in [(2, 1), (4, 1), (1, 2), (1, 4), (2, 2)] {
        let degrees = Degrees {
            tensor,
            sequence,
            cfg: 1,
        };
        for (outputs, bytes) in on_ranks(degrees.ranks(), |group| {
            let (shard, _) = Shard::join(&group, degrees).unwrap();
            let model = FluxTransformer::open_shard(folder.path(), CPU, &shard).unwrap();
            (
                samples().map(|sample| sample.run(&model)),
                model.bytes_read(),
            )
        }) {
            for (output, expected) in outputs.iter().zip(&expected) {
                assert_equal(&format!("{tensor} x {sequence} ranks"), output, expected);
            }
            let reads_less = bytes < alone.bytes_read();
            assert_eq!(reads_less, tensor > 1, "{bytes} bytes on {tensor} ranks");
        }
    }
}

/// The tiny model in the layout of the original code.
fn original(folder: &std::path::Path) -> std::path::PathBuf {
    let config = dev_config();
    let parsed: FluxConfig = serde_json::from_value(config.clone()).unwrap();
    let sizes = FluxSizes {
        width: parsed.width(),
        head: parsed.attention_head_dim,
        channels: parsed.in_channels,
        text: parsed.joint_attention_dim,
        pooled: parsed.pooled_projection_dim,
        doubles: parsed.num_layers as usize,
        singles: parsed.num_single_layers as usize,
        guidance: parsed.guidance_embeds,
    };
    let diffusers = asked_tensors(folder, &config, |weights| {
        FluxTransformer::load(weights, parsed.clone()).map(drop)
    });
    let tensors = made_of(&original_transformer(sizes), &diffusers);
    let views: Vec<(&str, &Tensor)> = tensors
        .iter()
        .map(|(name, tensor)| (name.as_str(), tensor))
        .collect();
    let file = folder.join("flux1-tiny.safetensors");
    write_tensors(&file, &views).unwrap();
    file
}

/// Specification `flux`, tests 8 and 15: an original file gives what the vectors say, on one rank and on two.
#[test]
fn original_files_give_the_outputs_of_diffusers() {
    let folder = tempfile::tempdir().unwrap();
    let file = original(folder.path());
    let open = |shard: &Shard| {
        let (part, config) = (SingleFilePart::FluxTransformer, dev_config());
        let checkpoint = Checkpoint::single_file_with_config(&file, part, config).unwrap();
        let config = FluxConfig::of(&checkpoint).unwrap();
        FluxTransformer::of_checkpoint(&checkpoint, config, CPU, shard).unwrap()
    };
    let expected = &case("flux_dev_like")["output"];
    let alone = Sample::dev().run(&open(&Shard::default()));
    assert_vector("one rank", &alone, expected, TOLERANCE);
    let degrees = Degrees {
        tensor: 2,
        ..Degrees::ONE
    };
    for output in on_ranks(2, |group| {
        let (shard, _) = Shard::join(&group, degrees).unwrap();
        Sample::dev().run(&open(&shard))
    }) {
        assert_vector("two ranks", &output, expected, TOLERANCE);
    }
    // The axes of heads of 16 channels cannot be told from a file alone.
    let error = FluxTransformer::open(&file, CPU).unwrap_err().to_string();
    assert!(error.contains("config.json"), "{error}");
}

/// Specification `flux`, test 15: an adapter of the last layer of a single block is divided like it.
#[test]
fn adapters_are_divided_like_the_layers() {
    use storyloom_nn::layers::{Adaptable, LayerMut, LowRank};
    let folder = written(&dev_config());
    let adapted = |shard: &Shard| {
        let mut model = FluxTransformer::open_shard(folder.path(), CPU, shard).unwrap();
        for (name, inputs, outputs) in [
            ("single_transformer_blocks.1.proj_out", 320, 64),
            ("transformer_blocks.0.attn.to_q", 64, 64),
            ("transformer_blocks.1.ff_context.net.2", 256, 64),
            ("transformer_blocks.1.norm1.linear", 64, 384),
        ] {
            let update = LowRank {
                down: wave(0.3, 0.1, &[2, inputs]) * 0.3,
                up: wave(0.4, 0.7, &[outputs, 2]) * 0.3,
                scale: 0.5,
            };
            match model.layer_mut(name) {
                Some(LayerMut::Linear(linear)) => linear.add_low_rank(update).unwrap(),
                other => panic!("{name} is {other:?}"),
            }
        }
        Sample::dev().run(&model)
    };
    let expected = adapted(&Shard::default());
    let plain = Sample::dev().run(&FluxTransformer::open(folder.path(), CPU).unwrap());
    let difference = (&plain - &expected).abs().max().double_value(&[]);
    assert!(difference > 1e-2, "{difference}");
    let degrees = Degrees {
        tensor: 4,
        ..Degrees::ONE
    };
    for output in on_ranks(4, |group| {
        let (shard, _) = Shard::join(&group, degrees).unwrap();
        adapted(&shard)
    }) {
        assert_equal("four ranks", &output, &expected);
    }
}

/// Every layer is found by its diffusers name, and no other name is.
#[test]
fn all_layers_can_be_adapted() {
    use storyloom_nn::layers::Adaptable;
    let folder = written(&dev_config());
    let mut model = FluxTransformer::open(folder.path(), CPU).unwrap();
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    for (name, entry) in checkpoint.entries() {
        let Some(layer) = name.strip_suffix(".weight") else {
            continue;
        };
        let found = model.layer_mut(layer).map(|layer| layer.weight_size());
        assert_eq!(found.as_ref(), Some(&entry.shape), "{name}");
    }
    for name in [
        "transformer_blocks.2.attn.to_q",
        "transformer_blocks.0.attn.to_out",
        "single_transformer_blocks.0.attn.to_out.0",
        "single_transformer_blocks.0.ff.net.2",
        "time_text_embed",
        "",
    ] {
        assert!(model.layer_mut(name).is_none(), "{name}");
    }
}
