//! Original files of FLUX are read as what they are, and proved to be whole.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::{Value, json};
use tch::{Device, Kind, Tensor};

use super::super::{Checkpoint, SingleFilePart, Target};
use super::*;
use crate::tensor_file::write_tensors;
use crate::testing::flux::{
    AutoencoderSizes, FluxSizes, Made, Shapes, made_of, numbered, original_transformer,
};

type Named = BTreeMap<String, Tensor>;

const TRANSFORMER: SingleFilePart = SingleFilePart::FluxTransformer;
const PREFIX: &str = "model.diffusion_model.";

/// A tiny transformer in the names of diffusers and as an original file has it.
fn transformer(sizes: FluxSizes) -> (Named, Named) {
    let diffusers = numbered(&sizes.shapes());
    let original = made_of(&original_transformer(sizes), &diffusers);
    (diffusers, original)
}

fn write(folder: &Path, tensors: &Named) -> PathBuf {
    let file = folder.join("flux1.safetensors");
    let views: Vec<_> = tensors
        .iter()
        .map(|(name, it)| (name.as_str(), it))
        .collect();
    write_tensors(&file, &views).unwrap();
    file
}

fn open(file: &Path, part: SingleFilePart) -> Result<Checkpoint, String> {
    Checkpoint::single_file_with_config(file, part, json!({})).map_err(|error| error.to_string())
}

/// What opening a file of these tensors says.
fn refused(tensors: &Named) -> String {
    let folder = tempfile::tempdir().unwrap();
    open(&write(folder.path(), tensors), TRANSFORMER).unwrap_err()
}

fn values(checkpoint: &Checkpoint) -> Named {
    let weights = checkpoint.weights(Target::CPU_F32);
    let take = |(name, entry): (&String, &TensorEntry)| {
        let tensor = weights.take(name, &entry.shape).unwrap();
        (name.clone(), tensor)
    };
    let found = checkpoint.entries().iter().map(take).collect();
    weights.finish().unwrap();
    found
}

fn prefixed(tensors: &Named, prefix: &str) -> Named {
    let named = tensors.iter();
    named
        .map(|(name, it)| (format!("{prefix}{name}"), it.shallow_clone()))
        .collect()
}

#[test]
fn an_original_transformer_has_the_tensors_of_diffusers() {
    for guidance in [true, false] {
        let sizes = FluxSizes {
            guidance,
            ..FluxSizes::TINY
        };
        let (diffusers, original) = transformer(sizes);
        for prefix in ["", PREFIX, "diffusion_model."] {
            let folder = tempfile::tempdir().unwrap();
            let file = write(folder.path(), &prefixed(&original, prefix));
            let checkpoint = open(&file, TRANSFORMER).unwrap();
            assert!(values(&checkpoint) == diffusers, "{prefix:?}, {guidance}");
            let plain = tempfile::tempdir().unwrap();
            let plain = write(plain.path(), &diffusers);
            let plain = Checkpoint::from_files(folder.path(), Value::Null, &[plain]).unwrap();
            assert_eq!(checkpoint.digest().unwrap(), plain.digest().unwrap());
        }
    }
}

#[test]
fn a_folder_may_have_the_original_file() {
    let (diffusers, original) = transformer(FluxSizes::TINY);
    let folder = tempfile::tempdir().unwrap();
    let file = write(folder.path(), &original);
    std::fs::rename(file, folder.path().join("model.safetensors")).unwrap();
    std::fs::write(folder.path().join("config.json"), "{}").unwrap();
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    assert!(values(&checkpoint) == diffusers);
}

/// Entry `single_file` of the vectors: a network of width 2.
#[test]
fn fused_rows_and_swapped_halves_are_those_of_the_specification() {
    let sizes = FluxSizes {
        width: 2,
        head: 2,
        ..FluxSizes::TINY
    };
    let (_, mut original) = transformer(sizes);
    for (name, numbers) in [
        (
            "double_blocks.1.img_attn.qkv.bias",
            vec![1.0, 1.5, 2.0, 2.5, 3.0, 3.5],
        ),
        (
            "single_blocks.0.linear1.bias",
            (0_i16..14).map(f32::from).collect(),
        ),
        (
            "final_layer.adaLN_modulation.1.bias",
            vec![1.0, 2.0, 3.0, 4.0],
        ),
    ] {
        let old = original.insert(name.to_owned(), Tensor::from_slice(&numbers));
        assert_eq!(old.unwrap().size(), [numbers.len() as i64]);
    }
    let folder = tempfile::tempdir().unwrap();
    let found = values(&open(&write(folder.path(), &original), TRANSFORMER).unwrap());
    for (name, wanted) in [
        ("transformer_blocks.1.attn.to_q.bias", &[1.0_f32, 1.5][..]),
        ("transformer_blocks.1.attn.to_k.bias", &[2.0, 2.5]),
        ("transformer_blocks.1.attn.to_v.bias", &[3.0, 3.5]),
        ("single_transformer_blocks.0.attn.to_q.bias", &[0.0, 1.0]),
        ("single_transformer_blocks.0.attn.to_k.bias", &[2.0, 3.0]),
        ("single_transformer_blocks.0.attn.to_v.bias", &[4.0, 5.0]),
        (
            "single_transformer_blocks.0.proj_mlp.bias",
            &[6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 12.0, 13.0],
        ),
        ("norm_out.linear.bias", &[3.0, 4.0, 1.0, 2.0]),
    ] {
        assert_eq!(found[name], Tensor::from_slice(wanted), "{name}");
    }
}

/// Entries of these shapes in bf16, one behind the other in one file.
fn entries(shapes: &[(String, Vec<i64>)]) -> Tensors {
    let mut at = 0;
    let entry = |(name, shape): &(String, Vec<i64>)| {
        let bytes = shape.iter().product::<i64>() as usize * 2;
        let shape = shape.clone();
        let entry = TensorEntry::new(0, name, Kind::BFloat16, shape, at..at + bytes);
        at += bytes;
        (name.clone(), entry)
    };
    shapes.iter().map(entry).collect()
}

/// The shape of an original tensor.
fn shape_of(made: &Made, shapes: &Shapes) -> Vec<i64> {
    match made {
        Made::Copied(name) | Made::Swapped(name) => shapes[name].clone(),
        Made::OnePixel(name) => [shapes[name].as_slice(), &[1, 1]].concat(),
        Made::Stacked(names) => {
            let mut shape = shapes[&names[0]].clone();
            shape[0] = names.iter().map(|name| shapes[name][0]).sum();
            shape
        }
    }
}

fn shapes_of(tensors: &Tensors) -> Shapes {
    let shapes = tensors.iter();
    shapes
        .map(|(name, entry)| (name.clone(), entry.shape.clone()))
        .collect()
}

/// Entry `single_file` of the vectors: the counts of the real networks.
#[test]
fn the_full_networks_are_mapped_name_by_name() {
    for (guidance, counts, parameters) in [
        (true, [1160, 780], 11_901_408_320),
        (false, [1156, 776], 11_891_178_560),
    ] {
        let sizes = FluxSizes {
            guidance,
            ..FluxSizes::DEV
        };
        let shapes = sizes.shapes();
        let original: Vec<_> = original_transformer(sizes)
            .into_iter()
            .map(|(name, made)| (name, shape_of(&made, &shapes)))
            .collect();
        assert_eq!([shapes.len(), original.len()], counts);
        let tensors = entries(&original);
        assert_eq!(Layout::of(&tensors), Some(Layout::FluxTransformer));
        let layout = Layout::FluxTransformer;
        let (found, _) = layout.translate(tensors, Tensors::new()).unwrap();
        assert_eq!(shapes_of(&found), shapes);
        let bytes: usize = found.values().map(TensorEntry::bytes).sum();
        assert_eq!(bytes, 2 * parameters);
    }
}

#[test]
fn the_full_autoencoder_is_mapped_name_by_name() {
    let sizes = AutoencoderSizes {
        widths: &[128, 256, 512, 512],
        blocks: 2,
    };
    let (mut shapes, mut original) = (Shapes::new(), Vec::new());
    for (name, made, shape) in sizes.tensors() {
        let (Made::Copied(diffusers) | Made::OnePixel(diffusers)) = &made else {
            panic!("{made:?}");
        };
        shapes.insert(diffusers.clone(), shape);
        let shape = shape_of(&made, &shapes);
        original.push((name, shape));
    }
    let tensors = entries(&original);
    assert_eq!((tensors.len(), shapes.len()), (244, 244));
    assert_eq!(Layout::of(&tensors), Some(Layout::FluxAutoencoder));
    let layout = Layout::FluxAutoencoder;
    let (found, _) = layout.translate(tensors, Tensors::new()).unwrap();
    assert_eq!(shapes_of(&found), shapes);
    let bytes: usize = found.values().map(TensorEntry::bytes).sum();
    assert_eq!(bytes, 2 * 83_819_683);
}

/// A tiny autoencoder in the names of diffusers and as an original file has it.
fn autoencoder() -> (Named, Named) {
    let sizes = AutoencoderSizes {
        widths: &[4, 4, 8],
        blocks: 1,
    };
    let (mut shapes, mut recipe) = (Shapes::new(), Vec::new());
    for (original, made, shape) in sizes.tensors() {
        if let Made::Copied(name) | Made::OnePixel(name) = &made {
            shapes.insert(name.clone(), shape);
        }
        recipe.push((original, made));
    }
    let diffusers = numbered(&shapes);
    let original = made_of(&recipe, &diffusers);
    (diffusers, original)
}

#[test]
fn an_original_autoencoder_has_the_tensors_of_diffusers() {
    let (diffusers, original) = autoencoder();
    for prefix in ["", "vae."] {
        let folder = tempfile::tempdir().unwrap();
        let file = write(folder.path(), &prefixed(&original, prefix));
        let part = SingleFilePart::FluxAutoencoder;
        let checkpoint = Checkpoint::open_single_file(&file, part).unwrap();
        assert!(values(&checkpoint) == diffusers);
        let config = checkpoint.raw_config();
        assert_eq!(config["block_out_channels"], json!([4, 4, 8]));
        assert_eq!(config["layers_per_block"], json!(1));
        assert_eq!(config["shift_factor"], json!(0.1159));
    }
    let error = {
        let mut other = original;
        other.insert(
            "quant_conv.weight".into(),
            Tensor::zeros([1], (Kind::Float, Device::Cpu)),
        );
        let folder = tempfile::tempdir().unwrap();
        open(
            &write(folder.path(), &other),
            SingleFilePart::FluxAutoencoder,
        )
        .unwrap_err()
    };
    assert!(
        error.contains("1 tensors are not known: quant_conv.weight"),
        "{error}"
    );
}

#[test]
fn missing_unknown_and_doubled_names_are_errors_that_name_them() {
    let (_, original) = transformer(FluxSizes::TINY);
    let with = |change: &dyn Fn(&mut Named)| {
        let mut tensors = prefixed(&original, "");
        change(&mut tensors);
        refused(&tensors)
    };
    let one = || Tensor::zeros([1], (Kind::Float, Device::Cpu));
    for gone in [
        "double_blocks.1.txt_mlp.2.bias",
        "single_blocks.1.linear1.weight",
        "guidance_in.out_layer.bias",
        "img_in.weight",
    ] {
        let error = with(&|tensors| drop(tensors.remove(gone)));
        assert!(
            error.contains(&format!("1 tensors are missing: {gone}")),
            "{error}"
        );
    }
    for extra in [
        "double_blocks.0.img_attn.qkv.wight",
        "transformer_blocks.0.attn.to_q.bias",
        "double_blocks.01.img_mod.lin.bias",
        "double_blocks.4294967295.img_mod.lin.bias",
    ] {
        let error = with(&|tensors| drop(tensors.insert(extra.into(), one())));
        assert!(
            error.contains(&format!("1 tensors are not known: {extra}")),
            "{error}"
        );
    }
    // A block too many is a block of which the rest is missing.
    let error = with(&|tensors| drop(tensors.insert("single_blocks.3.linear2.bias".into(), one())));
    assert!(
        error.contains("missing: single_blocks.3.linear1.bias"),
        "{error}"
    );
    let error = with(&|tensors| tensors.extend(prefixed(&original, PREFIX)));
    assert!(error.contains("twice") && error.contains(PREFIX), "{error}");
    let error = with(&|tensors| {
        *tensors = prefixed(tensors, PREFIX);
        tensors.insert("first_stage_model.x".into(), one());
    });
    assert!(error.contains("first_stage_model.x is of none"), "{error}");
}

#[test]
fn tensors_that_cannot_be_cut_are_refused() {
    let (_, original) = transformer(FluxSizes::TINY);
    let zeros = |rows: i64| Tensor::zeros([rows], (Kind::Float, Device::Cpu));
    for (name, rows, said) in [
        (
            "double_blocks.0.img_attn.qkv.bias",
            23,
            "has 23 rows, which are not those of",
        ),
        (
            "single_blocks.2.linear1.bias",
            24,
            "has 24 rows, which are not those of",
        ),
        ("final_layer.adaLN_modulation.1.bias", 15, "not two halves"),
    ] {
        let mut tensors = prefixed(&original, "");
        tensors.insert(name.into(), zeros(rows));
        let error = refused(&tensors);
        assert!(error.contains(name) && error.contains(said), "{error}");
    }
}

#[test]
fn rows_that_are_used_twice_or_never_are_seen() {
    let all = entries(&[("a".into(), vec![4, 2]), ("b".into(), vec![2])]);
    let whole: Vec<TensorEntry> = all.values().cloned().collect();
    let [a, b] = [&whole[0], &whole[1]];
    let covers = |after: &[TensorEntry]| covers_once(&whole, after);
    assert!(covers(&[b.clone(), a.row_range(2, 2), a.row_range(0, 2)]));
    assert!(covers(&[a.with_swapped_halves(), b.clone()]));
    assert!(!covers(&[a.row_range(0, 2), b.clone()]));
    assert!(!covers(&[a.clone(), a.row_range(3, 1), b.clone()]));
    assert!(!covers(std::slice::from_ref(a)));
    let elsewhere = TensorEntry {
        file: 1,
        ..b.clone()
    };
    assert!(!covers(&[a.clone(), elsewhere]));
}

/// A file of float8 codes: every tensor of `shapes`, its codes counted up, and what stands beside them.
fn write_float8(
    file: &Path,
    shapes: &[(String, Vec<usize>)],
    beside: &[(String, Vec<usize>, Vec<f32>)],
) {
    let codes: Vec<(&str, &[usize], Vec<u8>)> = shapes
        .iter()
        .map(|(name, shape)| {
            let count: usize = shape.iter().product();
            // 0x00 to 0x7e: every positive number there is.
            let bytes = (0..count).map(|at| (at % 0x7f) as u8).collect();
            (name.as_str(), shape.as_slice(), bytes)
        })
        .collect();
    let factors: Vec<Vec<u8>> = beside
        .iter()
        .map(|(_, _, numbers)| numbers.iter().flat_map(|it| it.to_le_bytes()).collect())
        .collect();
    let view =
        |dtype, shape: &[usize], bytes| TensorView::new(dtype, shape.to_vec(), bytes).unwrap();
    let weights = codes
        .iter()
        .map(|(name, shape, bytes)| (*name, view(Dtype::F8_E4M3, shape, bytes)));
    let others = beside
        .iter()
        .zip(&factors)
        .map(|((name, shape, _), bytes)| (name.as_str(), view(Dtype::F32, shape, bytes)));
    safetensors::serialize_to_file(weights.chain(others), None, file).unwrap();
}

/// The number of a code of e4m3, by its definition.
fn decoded(code: u8) -> f32 {
    let (exponent, mantissa) = (i32::from(code >> 3 & 0xf), f32::from(code & 7));
    let size = match exponent {
        0 => mantissa / 8.0 * 2.0_f32.powi(-6),
        _ => (1.0 + mantissa / 8.0) * 2.0_f32.powi(exponent - 7),
    };
    if code & 0x80 == 0 { size } else { -size }
}

/// Entry `fp8_e4m3` of the vectors, and every other code.
#[test]
fn codes_of_float8_are_the_numbers_of_the_specification() {
    let codes = [0_u8, 1, 7, 8, 48, 56, 60, 126, 184, 254];
    let wanted = [
        0.0_f32,
        0.001953125,
        0.013671875,
        0.015625,
        0.5,
        1.0,
        1.5,
        448.0,
        -1.0,
        -448.0,
    ];
    assert_eq!(codes.map(decoded), wanted);
    let finite: Vec<u8> = (0..=255).filter(|code| code & 0x7f != 0x7f).collect();
    assert_eq!(finite.len(), 254);
    let folder = tempfile::tempdir().unwrap();
    let view = TensorView::new(Dtype::F8_E4M3, vec![254], &finite).unwrap();
    let file = folder.path().join("model.safetensors");
    safetensors::serialize_to_file([("a", view)], None, &file).unwrap();
    let checkpoint = Checkpoint::with_config(folder.path(), json!({})).unwrap();
    let numbers: Vec<f32> = finite.iter().map(|code| decoded(*code)).collect();
    for kind in [Kind::Float, Kind::BFloat16] {
        let target = Target {
            kind,
            device: Device::Cpu,
        };
        let found = checkpoint.weights(target).take("a", &[254]).unwrap();
        let found: Vec<f32> = Vec::try_from(found.to_kind(Kind::Float)).unwrap();
        assert_eq!(found, numbers, "{kind:?}");
    }
}

fn shapes_in(original: &Named) -> Vec<(String, Vec<usize>)> {
    let shape = |tensor: &Tensor| tensor.size().into_iter().map(|it| it as usize).collect();
    let named = original.iter();
    named.map(|(name, it)| (name.clone(), shape(it))).collect()
}

/// The tensors that the codes of [`write_float8`] are.
fn decoded_tensors(original: &Named) -> Named {
    let decode = |tensor: &Tensor| {
        let count = tensor.numel();
        let numbers: Vec<f32> = (0..count).map(|at| decoded((at % 0x7f) as u8)).collect();
        Tensor::from_slice(&numbers).view(tensor.size().as_slice())
    };
    let named = original.iter();
    named.map(|(name, it)| (name.clone(), decode(it))).collect()
}

#[test]
fn a_file_of_plain_float8_has_the_decoded_weights() {
    let (_, original) = transformer(FluxSizes::TINY);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("flux1.safetensors");
    write_float8(&file, &shapes_in(&original), &[]);
    let found = values(&open(&file, TRANSFORMER).unwrap());
    let decoded = write(folder.path(), &decoded_tensors(&original));
    assert!(found == values(&open(&decoded, TRANSFORMER).unwrap()));
}

/// A fused weight has one factor for all of its layers, or one for each row of theirs.
#[test]
fn factors_of_fused_weights_are_cut_with_them() {
    let (_, original) = transformer(FluxSizes::TINY);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("flux1.safetensors");
    let shapes = shapes_in(&prefixed(&original, PREFIX));
    let name = |layer: &str| format!("{PREFIX}{layer}.scale_weight");
    let rows = |count: u16| {
        (0..count)
            .map(|row| 1.0 + f32::from(row))
            .collect::<Vec<_>>()
    };
    let beside = [
        (format!("{PREFIX}scaled_fp8"), vec![1], vec![0.0]),
        (name("double_blocks.0.img_attn.qkv"), vec![], vec![0.5]),
        (name("single_blocks.1.linear1"), vec![56, 1], rows(56)),
        (name("final_layer.adaLN_modulation.1"), vec![16], rows(16)),
        (
            format!("{PREFIX}double_blocks.0.img_attn.qkv.scale_input"),
            vec![],
            vec![9.0],
        ),
    ];
    write_float8(&file, &shapes, &beside);
    let found = values(&open(&file, TRANSFORMER).unwrap());
    let mut wanted = decoded_tensors(&original);
    for (layer, factor) in [
        ("double_blocks.0.img_attn.qkv", Tensor::from(0.5_f32)),
        (
            "single_blocks.1.linear1",
            Tensor::from_slice(&rows(56)).view([56, 1]),
        ),
        (
            "final_layer.adaLN_modulation.1",
            Tensor::from_slice(&rows(16)).view([16, 1]),
        ),
    ] {
        let weight = wanted.get_mut(&format!("{layer}.weight")).unwrap();
        *weight = weight.multiply(&factor);
    }
    let decoded = write(folder.path(), &wanted);
    assert!(found == values(&open(&decoded, TRANSFORMER).unwrap()));
}

#[test]
fn ranks_take_their_part_of_a_part() {
    let (diffusers, original) = transformer(FluxSizes::TINY);
    let folder = tempfile::tempdir().unwrap();
    let checkpoint = open(&write(folder.path(), &original), TRANSFORMER).unwrap();
    let weights = checkpoint.weights(Target::CPU_F32);
    for (name, axis) in [
        ("single_transformer_blocks.1.attn.to_v.weight", 0),
        ("single_transformer_blocks.1.proj_mlp.weight", 1),
        ("norm_out.linear.weight", 0),
        ("norm_out.linear.weight", 1),
    ] {
        let whole = &diffusers[name];
        for index in 0..4 {
            let part = crate::shard::Part { index, of: 4 };
            let found = weights.take_part(name, &whole.size(), axis, part).unwrap();
            let wanted = &whole.chunk(4, axis as i64)[index as usize];
            assert_eq!(&found, wanted, "{name}, axis {axis}, {index}");
        }
    }
}

#[test]
fn configs_of_single_files_tell_dev_from_schnell() {
    for guidance in [true, false] {
        let sizes = FluxSizes {
            width: 128,
            head: 128,
            doubles: 1,
            singles: 2,
            guidance,
            ..FluxSizes::TINY
        };
        let (_, original) = transformer(sizes);
        let folder = tempfile::tempdir().unwrap();
        let file = write(folder.path(), &original);
        let checkpoint = Checkpoint::open_single_file(&file, TRANSFORMER).unwrap();
        assert_eq!(checkpoint.class_name(), Some("FluxTransformer2DModel"));
        let wanted = json!({
            "_class_name": "FluxTransformer2DModel", "patch_size": 1, "in_channels": 6,
            "out_channels": null, "num_layers": 1, "num_single_layers": 2,
            "attention_head_dim": 128, "num_attention_heads": 1, "joint_attention_dim": 5,
            "pooled_projection_dim": 3, "guidance_embeds": guidance, "axes_dims_rope": [16, 56, 56],
        });
        assert_eq!(checkpoint.raw_config(), &wanted);
    }
    let (_, original) = transformer(FluxSizes::TINY);
    let folder = tempfile::tempdir().unwrap();
    let file = write(folder.path(), &original);
    let error = Checkpoint::open_single_file(&file, TRANSFORMER).unwrap_err();
    assert!(
        error.to_string().contains("a config.json is needed"),
        "{error}"
    );
}

#[test]
fn all_parts_of_an_all_in_one_file_are_found() {
    let (diffusers, original) = transformer(FluxSizes::TINY);
    let (latents, coder) = autoencoder();
    let one = || Tensor::ones([1], (Kind::Float, Device::Cpu));
    let mut all = prefixed(&original, PREFIX);
    all.extend(prefixed(&coder, "vae."));
    let t5 = "text_encoders.t5xxl.transformer.";
    let clip = "text_encoders.clip_l.transformer.";
    let bias = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight";
    let tokens = "text_model.embeddings.token_embedding.weight";
    for name in [
        format!("{t5}{bias}"),
        format!("{clip}{tokens}"),
        format!("{clip}text_projection.weight"),
        "text_encoders.t5xxl.logit_scale".to_owned(),
    ] {
        all.insert(name, one());
    }
    let folder = tempfile::tempdir().unwrap();
    let file = write(folder.path(), &all);
    assert_eq!(
        Checkpoint::parts_of_single_file(&file).unwrap(),
        SingleFilePart::ALL
    );
    assert!(values(&open(&file, TRANSFORMER).unwrap()) == diffusers);
    assert!(values(&open(&file, SingleFilePart::FluxAutoencoder).unwrap()) == latents);
    for (part, name) in [
        (SingleFilePart::ClipText, tokens),
        (SingleFilePart::T5Encoder, bias),
    ] {
        let checkpoint = Checkpoint::open_single_file(&file, part).unwrap();
        assert_eq!(checkpoint.entries().keys().collect::<Vec<_>>(), [name]);
        assert!(checkpoint.class_name().is_some());
    }
    let lone = write(folder.path(), &original);
    let error = open(&lone, SingleFilePart::T5Encoder).unwrap_err();
    assert!(
        error.contains("there is no encoder of T5 in this file"),
        "{error}"
    );
}

#[test]
fn features_that_are_not_supported_are_refused_by_name() {
    let (_, original) = transformer(FluxSizes::TINY);
    let numbers = |shape: &[i64]| Tensor::zeros(shape, (Kind::Float, Device::Cpu));
    let cases: [(&str, &[i64], &str); 9] = [
        ("distilled_guidance_layer.norms.0.scale", &[1], "Chroma"),
        ("double_stream_modulation_img.lin.weight", &[1], "FLUX.2"),
        ("double_blocks.0.img_mlp.0.weight.absmax", &[1], "NF4"),
        (
            "double_blocks.0.img_mlp.0.weight.quant_state.bitsandbytes__nf4",
            &[1],
            "NF4",
        ),
        ("encoder_hid_proj.0.weight", &[1], "IP-adapter"),
        (
            "transformer_blocks.0.attn.processor.to_k_ip.0.weight",
            &[1],
            "IP-adapter",
        ),
        ("controlnet_blocks.0.weight", &[1], "ControlNet"),
        ("img_in.weight", &[8, 12], "Canny or Depth control"),
        ("img_in.weight", &[8, 36], "Fill"),
    ];
    for (name, shape, feature) in cases {
        let mut tensors = prefixed(&original, "");
        tensors.insert(name.to_owned(), numbers(shape));
        let error = refused(&tensors);
        assert!(
            error.contains(feature) && error.contains("not supported"),
            "{error}"
        );
        // A file that has nothing of a transformer of FLUX.1.
        if feature != "Fill" && !feature.starts_with("Canny") {
            let alone = BTreeMap::from([(format!("{PREFIX}{name}"), numbers(shape))]);
            let error = refused(&alone);
            assert!(error.contains(feature), "{error}");
        }
    }
    for class in ["FluxControlNetModel", "Flux2Transformer2DModel"] {
        let folder = tempfile::tempdir().unwrap();
        let file = write(folder.path(), &original);
        std::fs::rename(file, folder.path().join("model.safetensors")).unwrap();
        let error = Checkpoint::with_config(folder.path(), json!({"_class_name": class}));
        let error = error.unwrap_err().to_string();
        assert!(
            error.contains(class) && error.contains("not supported"),
            "{error}"
        );
    }
}

#[test]
fn other_quantisations_of_comfyui_are_refused_by_name() {
    for (text, said) in [
        (r#"{"format": "float8_e4m3fn"}"#, None),
        (r#"{"format": "nvfp4"}"#, Some("quantised as nvfp4")),
        ("{", Some("something that cannot be read")),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let weight = TensorView::new(Dtype::F8_E4M3, vec![1, 1], &[0x38]).unwrap();
        let scale = 2.0_f32.to_le_bytes();
        let scale = TensorView::new(Dtype::F32, vec![], &scale).unwrap();
        let told = TensorView::new(Dtype::U8, vec![text.len()], text.as_bytes()).unwrap();
        let tensors = [
            ("a.weight", weight),
            ("a.weight_scale", scale),
            ("a.comfy_quant", told),
        ];
        let file = folder.path().join("model.safetensors");
        safetensors::serialize_to_file(tensors, None, &file).unwrap();
        let opened = Checkpoint::with_config(folder.path(), json!({}));
        match said {
            None => assert_eq!(
                values(&opened.unwrap())["a.weight"].double_value(&[0, 0]),
                2.0
            ),
            Some(said) => {
                let error = opened.unwrap_err().to_string();
                assert!(
                    error.contains(said) && error.contains("a.comfy_quant"),
                    "{error}"
                );
            }
        }
    }
}

proptest! {
    /// Whatever names a file has, it is read or refused, and what is unknown is told.
    #[test]
    fn any_names_are_read_without_a_panic(
        names in prop::collection::btree_set("(double_blocks|single_blocks|encoder\\.down|img_in|[a-z]{1,4})(\\.[0-9]{0,3}){0,2}\\.[a-z]{0,4}", 0..8),
        with_marks in any::<bool>(),
    ) {
        let mut shapes: Vec<(String, Vec<i64>)> = names.into_iter().map(|name| (name, vec![2, 2])).collect();
        if with_marks {
            shapes.extend([flux::MARK, autoencoder::MARKS[0], autoencoder::MARKS[1]].map(|name| (name.to_owned(), vec![2, 2])));
        }
        let tensors = entries(&shapes);
        for layout in [Layout::FluxTransformer, Layout::FluxAutoencoder, Layout::WanTransformer] {
            let result = layout.translate(tensors.clone(), Tensors::new());
            prop_assert!(layout == Layout::WanTransformer || result.is_err());
        }
    }

    /// A file without one of its tensors is refused by the name of that one.
    #[test]
    fn every_tensor_is_needed(which in 0_usize..68) {
        let sizes = FluxSizes { doubles: 1, singles: 2, ..FluxSizes::TINY };
        let shapes = sizes.shapes();
        let mut original: Vec<_> = original_transformer(sizes)
            .into_iter()
            .map(|(name, made)| (name, shape_of(&made, &shapes)))
            .collect();
        let gone = original.swap_remove(which % original.len()).0;
        let result = Layout::FluxTransformer.translate(entries(&original), Tensors::new());
        let Err(Misfit::Names { missing, unknown }) = result else {
            return Err(TestCaseError::fail(format!("without {gone}")));
        };
        prop_assert_eq!((missing, unknown), (vec![gone], vec![]));
    }
}
