//! Original single files and adapters of FLUX, end to end (specification `flux`, 10.3, tests 8, 12 and 15).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::json;
use storyloom_nn::checkpoint::{Checkpoint, SingleFilePart, Target};
use storyloom_nn::lora::{LoraSettings, apply_lora};
use storyloom_nn::shard::Shard;
use storyloom_nn::tensor_file::{read_tensors, write_tensors};
use storyloom_nn::testing::flux::{FluxSizes, Made, made_of, original_transformer};
use storyloom_nn::testing::on_ranks;
use storyloom_nn::testing::vectors::{
    asked_tensors, assert_vector, flux_vector, vector_weights, wave,
};
use storyloom_parallel::topology::Degrees;
use tch::{Kind, Tensor};

use super::vectors_test::{Sample, assert_equal, dev_config};
use super::{FluxConfig, FluxPositions, FluxTransformer};
use crate::forward::forward_file;

type Named = BTreeMap<String, Tensor>;

const CPU: Target = Target::CPU_F32;
const RANK: i64 = 3;

/// The sizes of the tiny model of the vectors.
const SIZES: FluxSizes = FluxSizes {
    width: 64,
    head: 16,
    channels: 16,
    text: 24,
    pooled: 12,
    doubles: 2,
    singles: 3,
    guidance: true,
};

fn config() -> FluxConfig {
    serde_json::from_value(dev_config()).unwrap()
}

/// The tensors of the tiny model in the names of diffusers.
fn tensors() -> Named {
    let found = asked_tensors(Path::new("none"), &dev_config(), |weights| {
        FluxTransformer::load(weights, config()).map(drop)
    });
    let shape = |(name, tensor): (&String, &Tensor)| (name.clone(), tensor.size());
    assert!(found.iter().map(shape).eq(SIZES.shapes()));
    found
}

fn model_of(tensors: &Named) -> FluxTransformer {
    let copies = tensors.iter().map(|(name, it)| (name.clone(), it.copy()));
    let checkpoint = Checkpoint::from_tensors(copies.collect(), dev_config());
    FluxTransformer::of_checkpoint(&checkpoint, config(), CPU, &Shard::default()).unwrap()
}

/// The transformer of a single file, or the part of it that is left to a rank.
fn open(file: &Path, shard: &Shard) -> FluxTransformer {
    let part = SingleFilePart::FluxTransformer;
    let checkpoint = Checkpoint::single_file_with_config(file, part, dev_config()).unwrap();
    let config = FluxConfig::of(&checkpoint).unwrap();
    FluxTransformer::of_checkpoint(&checkpoint, config, CPU, shard).unwrap()
}

fn write(file: &Path, tensors: &Named) {
    let views: Vec<_> = tensors
        .iter()
        .map(|(name, it)| (name.as_str(), it))
        .collect();
    write_tensors(file, &views).unwrap();
}

#[test]
fn an_all_in_one_file_gives_the_output_of_the_reference() {
    let expected = &flux_vector("modules/cases/flux_dev_like")["output"];
    let mut original = made_of(&original_transformer(SIZES), &tensors());
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("all.safetensors");
    let prefix = "model.diffusion_model.";
    original = original
        .into_iter()
        .map(|(name, tensor)| (format!("{prefix}{name}"), tensor))
        .collect();
    original.insert("vae.encoder.conv_in.bias".to_owned(), wave(1.0, 0.0, &[4]));
    write(&file, &original);
    let output = Sample::dev().run(&open(&file, &Shard::default()));
    assert_vector("output", &output, expected, 1e-5);
}

/// A single file has no config: the command finds it out, and computes what it computes from the folder.
#[test]
fn the_command_runs_a_single_file() {
    let sizes = FluxSizes {
        width: 128,
        head: 128,
        doubles: 1,
        singles: 1,
        guidance: false,
        ..SIZES
    };
    let diffusers: Named = sizes
        .shapes()
        .into_iter()
        .map(|(name, shape)| {
            let tensor = vector_weights(&name, &shape);
            (name, tensor)
        })
        .collect();
    let config = json!({
        "_class_name": FluxConfig::CLASS, "in_channels": 16, "num_layers": 1, "num_single_layers": 1,
        "num_attention_heads": 1, "joint_attention_dim": 24, "pooled_projection_dim": 12,
    });
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    write(&folder.path().join("model.safetensors"), &diffusers);
    let file = folder.path().join("flux1-schnell.safetensors");
    let original = made_of(&original_transformer(sizes), &diffusers);
    write(&file, &original);
    let input = folder.path().join("input");
    let positions = FluxPositions::grid(0.0, [3, 4]);
    let ids = Tensor::from_slice(positions.places().as_flattened()).view([12, 3]);
    let tensors = [
        ("hidden_states", wave(0.3, 1.0, &[1, 12, 16])),
        ("encoder_hidden_states", wave(0.2, 0.5, &[1, 5, 24])),
        ("pooled_projections", wave(0.4, 0.2, &[1, 12])),
        ("timestep", Tensor::from_slice(&[0.5_f32])),
        ("img_ids", ids),
    ];
    let views: Vec<_> = tensors.iter().map(|(name, it)| (*name, it)).collect();
    write_tensors(&input, &views).unwrap();
    let [of_folder, of_file] = [folder.path(), &file].map(|model| {
        let output = folder.path().join("output");
        forward_file(model, "transformer", CPU, &input, &output).unwrap();
        read_tensors(&output).unwrap().remove("output").unwrap()
    });
    assert_equal("of a file", &of_file, &of_folder);
    assert!(of_file.abs().max().double_value(&[]) > 1e-2);
}

/// What two ranks that share the layers give.
fn shared(open: impl Fn(&Shard) -> FluxTransformer + Sync) -> Vec<Tensor> {
    let degrees = Degrees {
        tensor: 2,
        ..Degrees::ONE
    };
    on_ranks(2, |group| {
        let (shard, _) = Shard::join(&group, degrees).unwrap();
        Sample::dev().run(&open(&shard))
    })
}

/// Codes of float8 that are nearest to the values.
fn codes(tensor: &Tensor) -> Vec<u8> {
    let bytes = tensor.to_kind(Kind::Float8e4m3fn).view_dtype(Kind::Uint8);
    Vec::try_from(bytes.reshape([-1])).unwrap()
}

#[test]
fn a_file_of_plain_float8_computes_with_the_decoded_weights() {
    let diffusers = tensors();
    let rounded: Named = diffusers
        .iter()
        .map(|(name, tensor)| {
            let rounded = tensor.to_kind(Kind::Float8e4m3fn).to_kind(Kind::Float);
            (name.clone(), rounded)
        })
        .collect();
    let original = made_of(&original_transformer(SIZES), &diffusers);
    let stored: Vec<_> = original
        .iter()
        .map(|(name, tensor)| {
            let shape: Vec<usize> = tensor.size().iter().map(|&axis| axis as usize).collect();
            (name, shape, codes(tensor))
        })
        .collect();
    let views = stored.iter().map(|(name, shape, codes)| {
        let view = TensorView::new(Dtype::F8_E4M3, shape.clone(), codes).unwrap();
        (name.as_str(), view)
    });
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("flux1-dev-fp8.safetensors");
    safetensors::serialize_to_file(views, None, &file).unwrap();
    let output = Sample::dev().run(&open(&file, &Shard::default()));
    assert_eq!(output, Sample::dev().run(&model_of(&rounded)));
    let exact = Sample::dev().run(&model_of(&diffusers));
    assert!((output - exact).abs().max().double_value(&[]) > 1e-3);
}

/// An update of a layer of the original code: its first factor, and the second one of each layer of diffusers.
struct Change {
    original: String,
    down: Tensor,
    up: Vec<(String, Tensor)>,
    is_swapped: bool,
}

impl Change {
    /// The second factor of the original layer.
    fn joined_up(&self) -> Tensor {
        let parts: Vec<&Tensor> = self.up.iter().map(|(_, up)| up).collect();
        let joined = Tensor::cat(&parts, 0);
        match self.is_swapped {
            true => joined.roll([joined.size()[0] / 2], [0]),
            false => joined,
        }
    }
}

/// One update of every product of the tiny model; those of other numbers differ.
fn changes(number: f64) -> Vec<Change> {
    let shapes = SIZES.shapes();
    let change = |(at, (name, made)): (usize, (String, Made))| {
        let (names, is_swapped) = match made {
            Made::Copied(name) => (vec![name], false),
            Made::Swapped(name) => (vec![name], true),
            Made::Stacked(names) => (names, false),
            Made::OnePixel(name) => panic!("{name}"),
        };
        let [_, inputs] = *shapes[&names[0]] else {
            return None;
        };
        let phase = number + at as f64;
        let up = names.iter().enumerate().map(|(part, name)| {
            let layer = name.strip_suffix(".weight").unwrap().to_owned();
            let up = wave(0.7, phase + part as f64, &[shapes[name][0], RANK]) * 0.1;
            (layer, up)
        });
        Some(Change {
            original: name.strip_suffix(".weight").unwrap().to_owned(),
            down: wave(0.3, phase, &[RANK, inputs]) * 0.1,
            up: up.collect(),
            is_swapped,
        })
    };
    let recipe = original_transformer(SIZES).into_iter().enumerate();
    recipe.filter_map(change).collect()
}

/// The adapter as kohya writes it, with an alpha of twice the rank.
fn kohya(changes: &[Change]) -> Named {
    let pieces = changes.iter().flat_map(|change| {
        let layer = change.original.replace('.', "_");
        let name = |end: &str| format!("lora_unet_{layer}.{end}");
        [
            (name("lora_down.weight"), change.down.copy()),
            (name("lora_up.weight"), change.joined_up()),
            (name("alpha"), Tensor::from(2 * RANK)),
        ]
    });
    pieces.collect()
}

/// The adapter as diffusers writes it, which has the scale 1.
fn diffusers(changes: &[Change], scale: f64) -> Named {
    let pieces = changes.iter().flat_map(|change| {
        change.up.iter().flat_map(move |(layer, up)| {
            let name = |end: &str| format!("transformer.{layer}.{end}.weight");
            [
                (name("lora_A"), change.down.copy()),
                (name("lora_B"), up * scale),
            ]
        })
    });
    pieces.collect()
}

/// The weights with the updates in them.
fn merged(mut tensors: Named, changes: &[Change], scale: f64) -> Named {
    for change in changes {
        for (layer, up) in &change.up {
            let weight = tensors.get_mut(&format!("{layer}.weight")).unwrap();
            *weight += up.matmul(&change.down) * scale;
        }
    }
    tensors
}

fn written(folder: &Path, name: &str, tensors: &Named) -> PathBuf {
    let file = folder.join(format!("{name}.safetensors"));
    write(&file, tensors);
    file
}

fn apply(model: &mut FluxTransformer, file: &Path, merge: bool) -> usize {
    let settings = LoraSettings {
        merge,
        ..LoraSettings::AS_FILES_SAY
    };
    apply_lora(model, file, CPU, settings).unwrap()
}

#[test]
fn adapters_in_every_layout_are_the_merged_weights() {
    let changes = changes(0.0);
    let folder = tempfile::tempdir().unwrap();
    let plain = Sample::dev().run(&model_of(&tensors()));
    let expected = Sample::dev().run(&model_of(&merged(tensors(), &changes, 2.0)));
    assert!((&expected - plain).abs().max().double_value(&[]) > 1e-2);
    for (name, adapter) in [
        ("kohya", kohya(&changes)),
        ("diffusers", diffusers(&changes, 2.0)),
    ] {
        let file = written(folder.path(), name, &adapter);
        for merge in [true, false] {
            let mut model = model_of(&tensors());
            assert_eq!(apply(&mut model, &file, merge), 2 * 14 + 3 * 6 + 10);
            assert_equal(name, &Sample::dev().run(&model), &expected);
        }
    }
}

#[test]
fn two_adapters_are_both_applied() {
    let [first, second] = [changes(0.0), changes(0.5)];
    let folder = tempfile::tempdir().unwrap();
    let both = merged(merged(tensors(), &first, 2.0), &second, 1.0);
    let expected = Sample::dev().run(&model_of(&both));
    let files = [
        written(folder.path(), "first", &kohya(&first)),
        written(folder.path(), "second", &diffusers(&second, 1.0)),
    ];
    for merge in [true, false] {
        let mut model = model_of(&tensors());
        for file in &files {
            apply(&mut model, file, merge);
        }
        assert_equal("both", &Sample::dev().run(&model), &expected);
    }
}

/// Ranks cut the factors as they cut the layers, also those of the last layer of single blocks, which reads two
/// runs of columns.
#[test]
fn ranks_share_adapters() {
    let changes = changes(0.0);
    let folder = tempfile::tempdir().unwrap();
    let expected = Sample::dev().run(&model_of(&merged(tensors(), &changes, 2.0)));
    let adapter = written(folder.path(), "kohya", &kohya(&changes));
    let original = made_of(&original_transformer(SIZES), &tensors());
    let file = written(folder.path(), "flux1-dev", &original);
    for merge in [true, false] {
        let outputs = shared(|shard| {
            let mut model = open(&file, shard);
            apply(&mut model, &adapter, merge);
            model
        });
        for output in outputs {
            assert_equal("two ranks", &output, &expected);
        }
    }
}
