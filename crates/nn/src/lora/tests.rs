//! Adapters of FLUX in every layout (specification `flux`, section 6.2) on a set of layers.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use safetensors::tensor::TensorView;
use tch::Kind;

use super::*;
use crate::dtype::raw_bytes;
use crate::layers::Linear;
use crate::tensor_file::write_tensors;
use crate::testing::flux::{FluxSizes, Made, original_transformer};

const RANK: i64 = 2;
const CPU: (Kind, Device) = (Kind::Float, Device::Cpu);

type Tensors = Vec<(String, Tensor)>;

/// The products of a network, all of their weights zero.
struct Products(BTreeMap<String, Linear>);

impl Products {
    fn of(sizes: FluxSizes) -> Self {
        let shapes = sizes.shapes().into_iter();
        let linears = shapes.filter_map(|(name, shape)| {
            let layer = name.strip_suffix(".weight")?.to_owned();
            let is_product = shape.len() == 2;
            is_product.then(|| {
                let weight = Tensor::zeros(shape.as_slice(), CPU);
                (layer, Linear::from_tensors(weight, None))
            })
        });
        Self(linears.collect())
    }

    /// What the weights are in effect, without those that are zero.
    fn weights(&self) -> BTreeMap<String, Tensor> {
        let weights = self.0.iter().map(|(name, linear)| {
            let identity = Tensor::eye(linear.size().1, CPU);
            (name.clone(), linear.forward(&identity).unwrap().tr())
        });
        let is_changed =
            |(_, weight): &(String, Tensor)| weight.count_nonzero(None).int64_value(&[]) > 0;
        weights.filter(is_changed).collect()
    }
}

impl Adaptable for Products {
    fn layer_mut(&mut self, name: &str) -> Option<LayerMut<'_>> {
        self.0.get_mut(name).map(LayerMut::Linear)
    }
}

/// Small whole numbers that follow from a name.
fn numbers(name: &str, shape: &[i64]) -> Tensor {
    let seed: i64 = name.bytes().map(i64::from).sum();
    let count: i64 = shape.iter().product();
    let values: Vec<f32> = (0..count)
        .map(|at| ((at * 31 + at / 3 + seed) % 7 - 3) as f32)
        .collect();
    Tensor::from_slice(&values).view(shape)
}

/// An update of a layer of the original code: its first factor, and the second one of each layer of diffusers.
struct Change {
    original: String,
    down: Tensor,
    up: Vec<(String, Tensor)>,
    is_swapped: bool,
}

/// One update of every product of the tiny network.
fn changes() -> Vec<Change> {
    let sizes = FluxSizes::TINY;
    let shapes = sizes.shapes();
    let recipe = original_transformer(sizes).into_iter();
    let change = |(name, made): (String, Made)| {
        let (names, is_swapped) = match made {
            Made::Copied(name) => (vec![name], false),
            Made::Swapped(name) => (vec![name], true),
            Made::Stacked(names) => (names, false),
            Made::OnePixel(name) => panic!("{name}"),
        };
        let shape = &shapes[&names[0]];
        if shape.len() < 2 {
            return None;
        }
        let up = |name: &String| {
            let layer = name.strip_suffix(".weight").unwrap().to_owned();
            let up = numbers(name, &[shapes[name][0], RANK]);
            (layer, up)
        };
        Some(Change {
            original: name.strip_suffix(".weight").unwrap().to_owned(),
            down: numbers(&name, &[RANK, shape[1]]),
            up: names.iter().map(up).collect(),
            is_swapped,
        })
    };
    recipe.filter_map(change).collect()
}

impl Change {
    /// The second factor of the original layer.
    fn joined_up(&self) -> Tensor {
        let parts: Vec<&Tensor> = self.up.iter().map(|(_, up)| up).collect();
        let joined = Tensor::cat(&parts, 0);
        match self.is_swapped {
            true => {
                let halves = joined.chunk(2, 0);
                Tensor::cat(&[&halves[1], &halves[0]], 0)
            }
            false => joined,
        }
    }
}

/// What the updates make of weights of zero.
fn wanted(changes: &[Change]) -> BTreeMap<String, Tensor> {
    let all = changes.iter().flat_map(|change| {
        let layers = change.up.iter();
        layers.map(|(layer, up)| (layer.clone(), up.matmul(&change.down)))
    });
    all.collect()
}

/// The names of a layout: prefix, ends of the halves, and whether points are low lines.
struct Layout {
    prefix: &'static str,
    ends: [&'static str; 2],
    is_flat: bool,
    /// The layers are called as in the original code.
    is_original: bool,
    /// The scale is that of an alpha tensor, and the second factor smaller by it.
    alpha: Option<f64>,
}

const LETTERS: [&str; 2] = [".lora_A.weight", ".lora_B.weight"];
const WORDS: [&str; 2] = [".lora_down.weight", ".lora_up.weight"];

impl Layout {
    const DIFFUSERS: Self = Self {
        prefix: "transformer.",
        ends: LETTERS,
        is_flat: false,
        is_original: false,
        alpha: None,
    };
    const KOHYA: Self = Self {
        prefix: "lora_unet_",
        ends: WORDS,
        is_flat: true,
        is_original: true,
        alpha: Some(8.0),
    };

    fn tensors(&self, changes: &[Change]) -> Tensors {
        let mut found = Tensors::new();
        for change in changes {
            let layers: Tensors = match self.is_original {
                true => vec![(change.original.clone(), change.joined_up())],
                false => {
                    let layers = change.up.iter();
                    layers.map(|(name, up)| (name.clone(), up.copy())).collect()
                }
            };
            for (layer, up) in layers {
                let layer = match self.is_flat {
                    true => layer.replace('.', "_"),
                    false => layer,
                };
                let name = |end: &str| format!("{}{layer}{end}", self.prefix);
                let scale = self.alpha.map_or(1.0, |alpha| alpha / RANK as f64);
                found.push((name(self.ends[0]), change.down.copy()));
                found.push((name(self.ends[1]), up / scale));
                if let Some(alpha) = self.alpha {
                    // Trainers write it as a whole number or as one of any width.
                    let kind = [Kind::Int64, Kind::Half, Kind::Float][found.len() % 3];
                    found.push((name(".alpha"), Tensor::from(alpha).to_kind(kind)));
                }
            }
        }
        found
    }
}

fn write(folder: &Path, tensors: &Tensors) -> PathBuf {
    let file = folder.join("lora.safetensors");
    let views: Vec<_> = tensors
        .iter()
        .map(|(name, it)| (name.as_str(), it))
        .collect();
    write_tensors(&file, &views).unwrap();
    file
}

/// The weights after the adapter of these tensors, merged and beside them.
fn applied(tensors: &Tensors, settings: LoraSettings) -> Result<BTreeMap<String, Tensor>, String> {
    let folder = tempfile::tempdir().unwrap();
    let file = write(folder.path(), tensors);
    let weights = [true, false].map(|merge| {
        let settings = LoraSettings { merge, ..settings };
        let mut model = Products::of(FluxSizes::TINY);
        let count = apply_lora(&mut model, &file, Target::CPU_F32, settings);
        let weights = model.weights();
        count.map(|count| {
            assert_eq!(count, weights.len());
            weights
        })
    });
    let [merged, beside] = weights.map(|weights| weights.map_err(|error| error.to_string()));
    assert!(merged == beside);
    merged
}

const PLAIN: LoraSettings = LoraSettings::AS_FILES_SAY;

#[test]
fn every_layout_gives_the_same_weights() {
    let changes = changes();
    let wanted = wanted(&changes);
    assert_eq!(wanted.len(), 2 * 14 + 3 * 6 + 10);
    let [diffusers, kohya] = [Layout::DIFFUSERS, Layout::KOHYA];
    for layout in [
        Layout {
            alpha: Some(1.0),
            ..Layout::DIFFUSERS
        },
        Layout {
            ends: WORDS,
            ..Layout::DIFFUSERS
        },
        Layout {
            prefix: "",
            ..Layout::DIFFUSERS
        },
        // peft itself, and fal's Kontext: no square root of the rank.
        Layout {
            prefix: "base_model.model.",
            ..Layout::DIFFUSERS
        },
        Layout {
            prefix: "base_model.model.",
            is_original: true,
            ..Layout::DIFFUSERS
        },
        Layout {
            alpha: None,
            ..Layout::KOHYA
        },
        Layout {
            prefix: "diffusion_model.",
            is_flat: false,
            ..Layout::KOHYA
        },
        Layout {
            prefix: "lora_transformer_",
            is_original: false,
            ..Layout::KOHYA
        },
        diffusers,
        kohya,
    ] {
        let found = applied(&layout.tensors(&changes), PLAIN);
        assert!(found.as_ref() == Ok(&wanted), "{}", layout.prefix);
    }
}

/// The header that diffusers writes: its alpha is over the rank, and over the root of it only where it says so.
#[test]
fn headers_of_diffusers_give_the_scale() {
    let changes = changes();
    let wanted = wanted(&changes);
    for (is_stabilised, scale) in [(false, 2.0), (true, 4.0 / 2.0_f64.sqrt())] {
        let text = serde_json::json!({
            "transformer.r": RANK, "transformer.lora_alpha": 4,
            "transformer.use_rslora": is_stabilised,
        });
        let header = [("lora_adapter_metadata".to_owned(), text.to_string())].into();
        let tensors: Vec<_> = Layout::DIFFUSERS
            .tensors(&changes)
            .iter()
            .map(|(name, tensor)| (name.clone(), raw_bytes(tensor).unwrap(), tensor.size()))
            .collect();
        let views = tensors.iter().map(|(name, (dtype, bytes), size)| {
            let shape = size.iter().map(|axis| *axis as usize).collect();
            (
                name.as_str(),
                TensorView::new(*dtype, shape, bytes).unwrap(),
            )
        });
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("lora.safetensors");
        safetensors::serialize_to_file(views, Some(header), &file).unwrap();
        let mut model = Products::of(FluxSizes::TINY);
        apply_lora(&mut model, &file, Target::CPU_F32, PLAIN).unwrap();
        for (name, weight) in model.weights() {
            let wanted = &wanted[&name] * scale;
            assert!(weight.allclose(&wanted, 1e-6, 1e-6, false), "{name}");
        }
    }
}

/// Entry `lora` of the vectors: a fused pair of kohya's on a network of width 2.
#[test]
fn a_fused_pair_is_that_of_the_specification() {
    let sizes = FluxSizes {
        width: 2,
        head: 2,
        ..FluxSizes::TINY
    };
    let matrix = |rows: &[[f32; 2]]| Tensor::from_slice2(rows);
    let prefix = "lora_unet_double_blocks_0_img_attn_qkv";
    let up = [
        [1.0, 0.0],
        [0.0, 1.0],
        [1.0, 1.0],
        [2.0, 0.0],
        [0.0, 3.0],
        [1.0, -1.0],
    ];
    let last = "lora_unet_final_layer_adaLN_modulation_1";
    let tensors = vec![
        (
            format!("{prefix}.lora_down.weight"),
            matrix(&[[1.0, 2.0], [0.0, 1.0]]),
        ),
        (format!("{prefix}.lora_up.weight"), matrix(&up)),
        (format!("{prefix}.alpha"), Tensor::from(4_i64)),
        (
            format!("{last}.lora_down.weight"),
            Tensor::from_slice2(&[[1.0_f32, 0.0]]),
        ),
        (
            format!("{last}.lora_up.weight"),
            Tensor::from_slice2(&[[1.0_f32], [2.0], [3.0], [4.0]]),
        ),
    ];
    let folder = tempfile::tempdir().unwrap();
    let file = write(folder.path(), &tensors);
    let mut model = Products::of(sizes);
    assert_eq!(
        apply_lora(&mut model, &file, Target::CPU_F32, PLAIN).unwrap(),
        4
    );
    let weights = model.weights();
    let layer = |name: &str| &weights[&format!("transformer_blocks.0.attn.{name}")];
    assert_eq!(layer("to_q"), &matrix(&[[2.0, 4.0], [0.0, 2.0]]));
    assert_eq!(layer("to_k"), &matrix(&[[2.0, 6.0], [4.0, 8.0]]));
    assert_eq!(layer("to_v"), &matrix(&[[0.0, 6.0], [2.0, 2.0]]));
    let rows = Tensor::from_slice(&[3.0_f32, 4.0, 1.0, 2.0]);
    assert_eq!(weights["norm_out.linear"].select(1, 0), rows);
}

/// kohya can train the three projections apart; the file then has one first factor with the rows of all of them,
/// and a second one that is zero outside of its blocks.
#[test]
fn second_factors_in_blocks_are_read_as_they_are() {
    let parts = ["attn.to_q", "attn.to_k", "attn.to_v"];
    let name = |part: &str| format!("transformer_blocks.1.{part}");
    let width = FluxSizes::TINY.width;
    let pairs = parts.map(|part| {
        let down = numbers(part, &[RANK, width]);
        (down, numbers(&name(part), &[width, RANK]))
    });
    let downs: Vec<&Tensor> = pairs.iter().map(|(down, _)| down).collect();
    let ups: Vec<&Tensor> = pairs.iter().map(|(_, up)| up).collect();
    let prefix = "lora_unet_double_blocks_1_img_attn_qkv";
    let tensors = vec![
        (format!("{prefix}.lora_down.weight"), Tensor::cat(&downs, 0)),
        (format!("{prefix}.lora_up.weight"), Tensor::block_diag(&ups)),
    ];
    let found = applied(&tensors, PLAIN).unwrap();
    for (part, (down, up)) in parts.iter().zip(&pairs) {
        assert_eq!(found[&name(part)], up.matmul(down), "{part}");
    }
}

#[test]
fn xlabs_changes_attention_and_the_last_layer_of_single_blocks() {
    let kept = |change: &Change| {
        let names = [
            ("img_attn.qkv", "qkv_lora1"),
            ("txt_attn.qkv", "qkv_lora2"),
            ("img_attn.proj", "proj_lora1"),
            ("txt_attn.proj", "proj_lora2"),
            ("linear1", "qkv_lora"),
            ("linear2", "proj_lora"),
        ];
        names.into_iter().find_map(|(original, name)| {
            let block = change.original.strip_suffix(original)?;
            block
                .ends_with('.')
                .then(|| format!("{block}processor.{name}"))
        })
    };
    let (mut tensors, mut used) = (Tensors::new(), Vec::new());
    for mut change in changes() {
        if let Some(name) = kept(&change) {
            // The MLP of a single block is no projection of attention.
            change.up.retain(|(layer, _)| !layer.ends_with("proj_mlp"));
            tensors.push((format!("{name}.down.weight"), change.down.copy()));
            tensors.push((format!("{name}.up.weight"), change.joined_up()));
            used.push(change);
        }
    }
    let found = applied(&tensors, PLAIN).unwrap();
    assert_eq!(found.len(), 2 * 8 + 3 * 4);
    assert!(found == wanted(&used));
}

#[test]
fn two_adapters_together_are_both_merged() {
    let (first, mut second) = (changes(), changes());
    for change in &mut second {
        for (_, up) in &mut change.up {
            *up = up.flip([0]);
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let file = write(folder.path(), &Layout::KOHYA.tensors(&first));
    let other = folder.path().join("other.safetensors");
    std::fs::rename(&file, &other).unwrap();
    let file = write(folder.path(), &Layout::DIFFUSERS.tensors(&second));
    let [one, two] = [wanted(&first), wanted(&second)];
    for merge in [true, false] {
        let settings = LoraSettings { merge, ..PLAIN };
        let mut model = Products::of(FluxSizes::TINY);
        for file in [&other, &file] {
            apply_lora(&mut model, file, Target::CPU_F32, settings).unwrap();
        }
        for (name, weight) in model.weights() {
            assert_eq!(weight, &one[&name] + &two[&name], "{name}");
        }
    }
}

#[test]
fn diffusers_leaves_what_is_outside_of_the_blocks() {
    let changes = changes();
    let like = LoraSettings {
        compat: LoraCompat::Diffusers,
        ..PLAIN
    };
    let comfy = Layout {
        prefix: "diffusion_model.",
        is_flat: false,
        ..Layout::KOHYA
    };
    for layout in [Layout::KOHYA, comfy] {
        let found = applied(&layout.tensors(&changes), like).unwrap();
        let mut inside = wanted(&changes);
        inside.retain(|layer, _| layer.contains("transformer_blocks."));
        assert_eq!(inside.len(), 2 * 14 + 3 * 6);
        assert!(found == inside);
    }
    // In its own layout it leaves nothing.
    let found = applied(&Layout::DIFFUSERS.tensors(&changes), like).unwrap();
    assert!(found == wanted(&changes));
    let folder = tempfile::tempdir().unwrap();
    let file = write(folder.path(), &Layout::KOHYA.tensors(&changes));
    let identity = |settings| adapter_identity(&file, settings).unwrap().scales;
    assert!(identity(like).is_some() && identity(like) != identity(PLAIN));
}

#[test]
fn leftovers_are_errors_that_name_file_key_and_the_nearest_name() {
    let good = Layout::KOHYA.tensors(&changes());
    let with = |extra: &[(&str, Tensor)]| {
        let mut tensors: Tensors = good
            .iter()
            .map(|(name, it)| (name.clone(), it.copy()))
            .collect();
        tensors.extend(
            extra
                .iter()
                .map(|(name, it)| ((*name).to_owned(), it.copy())),
        );
        applied(&tensors, PLAIN)
    };
    let ones = |shape: &[i64]| Tensor::ones(shape, CPU);
    assert!(with(&[]).is_ok());
    let error = with(&[("lora_unet_double_blocks_0_img_atn_qkv.alpha", ones(&[]))]).unwrap_err();
    for said in [
        "lora.safetensors",
        "1 tensors are not known: lora_unet_double_blocks_0_img_atn_qkv.alpha",
        "did you mean lora_unet_double_blocks_0_img_attn_qkv.alpha by",
    ] {
        assert!(error.contains(said), "{error}");
    }
    // A block that the network does not have.
    let pair = [
        (
            "lora_unet_single_blocks_9_linear2.lora_down.weight",
            ones(&[1, 40]),
        ),
        (
            "lora_unet_single_blocks_9_linear2.lora_up.weight",
            ones(&[8, 1]),
        ),
    ];
    let error = with(&pair).unwrap_err();
    for said in [
        "1 layers are not in this model: single_transformer_blocks.9.proj_out",
        "lora_unet_single_blocks_9_linear2.lora_down.weight, the nearest is \
         single_transformer_blocks.2.proj_out",
    ] {
        assert!(error.contains(said), "{error}");
    }
    // Half of a pair, a layer twice in two spellings, factors of another size.
    let down = "lora_unet_single_blocks_9_linear1.lora_down.weight";
    let error = with(&[(down, ones(&[1, 8]))]).unwrap_err();
    assert!(
        error.contains("single_blocks_9_linear1.lora_B.weight"),
        "{error}"
    );
    let again = "transformer.transformer_blocks.0.attn.to_k.lora_A.weight";
    let error = with(&[(again, ones(&[1, 8]))]).unwrap_err();
    assert!(
        error.contains(again) && error.contains("img_attn_qkv"),
        "{error}"
    );
    let last = "lora_unet_single_blocks_0_linear1";
    let mut short: Tensors = good
        .iter()
        .map(|(name, it)| (name.clone(), it.copy()))
        .collect();
    for (name, tensor) in &mut short {
        if *name == format!("{last}.lora_up.weight") {
            *tensor = tensor.narrow(0, 0, 24);
        }
    }
    let error = applied(&short, PLAIN).unwrap_err();
    assert!(
        error.contains("is 56x8, but its adapter is [2, 8] and [24, 2]"),
        "{error}"
    );
    // One form has its scale in the alpha alone.
    let mixture = Layout {
        prefix: "lora_transformer_",
        is_original: false,
        alpha: None,
        ..Layout::KOHYA
    };
    let error = applied(&mixture.tensors(&changes()), PLAIN).unwrap_err();
    assert!(error.contains("context_embedder.alpha"), "{error}");
}

#[test]
fn what_is_no_lora_of_the_network_is_refused_unless_it_is_zero() {
    let good = Layout::KOHYA.tensors(&changes());
    let with = |name: &str, value: f64, settings: LoraSettings| {
        let mut tensors: Tensors = good
            .iter()
            .map(|(name, it)| (name.clone(), it.copy()))
            .collect();
        tensors.push((name.to_owned(), Tensor::zeros([2, 2], CPU) + value));
        applied(&tensors, settings)
    };
    let ignoring = LoraSettings {
        ignore_text: true,
        ..PLAIN
    };
    for (name, kind, is_text) in [
        (
            "lora_te1_text_model_encoder_layers_0_mlp_fc1.lora_up.weight",
            "text encoder",
            true,
        ),
        (
            "text_encoder.text_model.encoder.x.lora_A.weight",
            "text encoder",
            true,
        ),
        (
            "text_encoders.t5xxl.transformer.x.lora_A.weight",
            "text encoder T5",
            false,
        ),
        (
            "lora_unet_double_blocks_0_img_mod_lin.diff",
            "full difference",
            false,
        ),
        (
            "lora_unet_double_blocks_0_img_mod_lin.diff_b",
            "full difference",
            false,
        ),
        (
            "lora_unet_double_blocks_0_img_mod_lin.dora_scale",
            "DoRA",
            false,
        ),
        (
            "lora_unet_double_blocks_0_img_mod_lin.lokr_w1",
            "LoKr",
            false,
        ),
        (
            "lora_unet_double_blocks_0_img_mod_lin.hada_w1_a",
            "LoHa",
            false,
        ),
        (
            "double_blocks.0.img_attn.norm.query_norm.scale",
            "control picture",
            false,
        ),
        (
            "double_blocks.0.img_attn.proj.lora_B.bias",
            "LoRA with biases",
            false,
        ),
    ] {
        let error = with(name, 0.5, PLAIN).unwrap_err();
        assert!(error.contains(kind) && error.contains(name), "{error}");
        assert!(with(name, 0.0, PLAIN).is_ok(), "{name}");
        assert_eq!(with(name, 0.5, ignoring).is_ok(), is_text, "{name}");
    }
}

#[test]
fn layers_of_two_networks_are_refused() {
    let mut tensors = Layout::DIFFUSERS.tensors(&changes());
    let ones = Tensor::ones([1, 8], CPU);
    tensors.push((
        "transformer.blocks.0.attn1.to_q.lora_A.weight".to_owned(),
        ones,
    ));
    let error = applied(&tensors, PLAIN).unwrap_err();
    assert!(error.contains("Wan") && error.contains("Flux"), "{error}");
}
