//! Adapters on a Wan transformer, against what PEFT computes.

use std::path::Path;

use storyloom_nn::checkpoint::Target;
use storyloom_nn::lora::{LoraScaling, LoraSettings, adapter_identity, apply_lora};
use storyloom_nn::tensor_file::{read_tensors, write_tensors};
use storyloom_nn::testing::{golden, golden_tensors, relative_error};
use tch::Tensor;

use crate::wan::{ForwardInputs, WanTransformer};

const SETTINGS: LoraSettings = LoraSettings::AS_FILES_SAY;

fn model() -> WanTransformer {
    WanTransformer::open(&golden("lora/transformer"), Target::CPU_F32).unwrap()
}

fn forward(model: &WanTransformer) -> Tensor {
    let io = golden_tensors("lora", "io.safetensors");
    let context = model
        .prepare_context(&io["encoder_hidden_states"], None)
        .unwrap();
    let inputs = ForwardInputs {
        hidden_states: &io["hidden_states"],
        timestep: &io["timestep"],
        temporal_positions: None,
        appended: None,
    };
    model.forward(&inputs, &context).unwrap()
}

#[test]
fn equals_peft_merged_and_beside() {
    let io = golden_tensors("lora", "io.safetensors");
    assert!(relative_error(&forward(&model()), &io["output_without_lora"]) < 2e-5);
    assert!(relative_error(&io["output"], &io["output_without_lora"]) > 1e-2);
    for merge in [true, false] {
        let mut model = model();
        let settings = LoraSettings { merge, ..SETTINGS };
        let file = golden("lora/lora.safetensors");
        let count = apply_lora(&mut model, &file, Target::CPU_F32, settings).unwrap();
        assert_eq!(count, 20);
        let error = relative_error(&forward(&model), &io["output"]);
        assert!(error < 2e-5, "merge {merge}: {error}");
    }
}

/// Specification, section 4.7: rank 128, alpha 128.
#[test]
fn the_scale_is_rank_stabilised() {
    let rank = 128.0_f64;
    assert!((rank / rank.sqrt() - 11.313_708_5).abs() < 1e-6);
}

/// The adapter of the golden case under the names of another form, its values kept.
fn write_as(path: &Path, prefix: &str, words: [&str; 2], separator: &str, alpha: Option<f32>) {
    let good = read_tensors(&golden("lora/lora.safetensors")).unwrap();
    let mut renamed = Vec::new();
    for (name, tensor) in good {
        let stem = name.strip_prefix("base_model.model.").unwrap();
        let (layer, half) = match stem.strip_suffix(".lora_A.weight") {
            Some(layer) => (layer, words[0]),
            None => (stem.strip_suffix(".lora_B.weight").unwrap(), words[1]),
        };
        let layer = layer.replace('.', separator);
        if let Some(alpha) = alpha.filter(|_| half == words[0]) {
            let alpha = Tensor::from(alpha).to_kind(tch::Kind::Float);
            renamed.push((format!("{prefix}{layer}.alpha"), alpha));
        }
        renamed.push((format!("{prefix}{layer}.{half}.weight"), tensor));
    }
    let views: Vec<_> = renamed
        .iter()
        .map(|(name, tensor)| (name.as_str(), tensor))
        .collect();
    write_tensors(path, &views).unwrap();
}

/// The golden adapter has rank 4 and scale 2: alpha 8 in plain forms.
#[test]
fn every_form_gives_the_same_film() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lora.safetensors");
    let io = golden_tensors("lora", "io.safetensors");
    let letters = ["lora_A", "lora_B"];
    let named = ["lora_A.default", "lora_B.default"];
    let words = ["lora_down", "lora_up"];
    for (prefix, halves, separator) in [
        ("lora_unet_", words, "_"),
        ("diffusion_model.", words, "."),
        ("diffusion_model.", letters, "."),
        ("transformer.", letters, "."),
        ("base_model.model.", letters, "."),
        ("pipe.dit.", named, "."),
        ("", letters, "."),
    ] {
        write_as(&path, prefix, halves, separator, Some(8.0));
        let mut model = model();
        assert_eq!(
            apply_lora(&mut model, &path, Target::CPU_F32, SETTINGS).unwrap(),
            20
        );
        let error = relative_error(&forward(&model), &io["output"]);
        assert!(error < 2e-5, "{prefix}: {error}");
        // The same alpha by the setting, where the file does not say it.
        write_as(&path, prefix, halves, separator, None);
        let settings = LoraSettings {
            alpha: Some(8.0),
            scaling: LoraScaling::Plain,
            ..SETTINGS
        };
        let mut model = self::model();
        apply_lora(&mut model, &path, Target::CPU_F32, settings).unwrap();
        let error = relative_error(&forward(&model), &io["output"]);
        assert!(error < 2e-5, "{prefix} by the setting: {error}");
    }
}

/// Only scales that are not StoryMem's are told apart from what the tensors say already.
#[test]
fn identities_are_those_of_earlier_builds_for_the_files_of_storymem() {
    let file = golden("lora/lora.safetensors");
    let identity = adapter_identity(&file, SETTINGS).unwrap();
    assert_eq!(identity.file, file);
    assert_eq!(identity.scales, None);
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("lora.safetensors");
    std::fs::copy(&file, &copy).unwrap();
    let config = folder.path().join("adapter_config.json");
    std::fs::write(&config, r#"{"r": 4, "lora_alpha": 4, "use_rslora": true}"#).unwrap();
    assert_eq!(adapter_identity(&copy, SETTINGS).unwrap().scales, None);
    std::fs::write(&config, r#"{"r": 4, "lora_alpha": 4}"#).unwrap();
    assert!(adapter_identity(&copy, SETTINGS).unwrap().scales.is_some());
}

/// Differences are added as they are: to weights, biases, norms and the modulation.
#[test]
fn differences_are_added_to_what_they_name() {
    let plain = forward(&model());
    for (tensor, difference) in [
        ("blocks.0.attn1.to_q.weight", "blocks.0.self_attn.q.diff"),
        ("blocks.0.attn1.to_v.bias", "blocks.0.self_attn.v.diff_b"),
        (
            "blocks.0.attn1.norm_k.weight",
            "blocks.0.self_attn.norm_k.diff",
        ),
        ("blocks.0.norm2.weight", "blocks.0.norm3.diff"),
        ("blocks.0.norm2.bias", "blocks.0.norm3.diff_b"),
        ("blocks.1.scale_shift_table", "blocks.1.diff_m"),
        ("scale_shift_table", "head.diff_m"),
        ("patch_embedding.weight", "patch_embedding.diff"),
        ("proj_out.bias", "head.head.diff_b"),
        (
            "condition_embedder.time_proj.weight",
            "time_projection.1.diff",
        ),
    ] {
        let (found, wanted) = with_difference(tensor, difference);
        let error = relative_error(&found, &wanted);
        assert!(error < 1e-6, "{tensor}: {error}");
        assert!(relative_error(&found, &plain) > 1e-5, "{tensor}");
    }
}

/// Outputs of a model that an adapter of one difference was applied to, and of one whose file
/// has the sum.
fn with_difference(tensor: &str, difference: &str) -> (Tensor, Tensor) {
    let folder = tempfile::tempdir().unwrap();
    let changed = folder.path().join("transformer");
    std::fs::create_dir(&changed).unwrap();
    let source = golden("lora/transformer");
    std::fs::copy(source.join("config.json"), changed.join("config.json")).unwrap();
    let name = "diffusion_pytorch_model.safetensors";
    let mut tensors = read_tensors(&source.join(name)).unwrap();
    let whole = tensors[tensor].to_kind(tch::Kind::Float);
    let change = whole.randn_like() * 0.1;
    let sum = whole + &change;
    tensors.insert(tensor.to_owned(), sum);
    let views: Vec<_> = tensors
        .iter()
        .map(|(name, tensor)| (name.as_str(), tensor))
        .collect();
    write_tensors(&changed.join(name), &views).unwrap();
    let file = folder.path().join("lora.safetensors");
    let spelled = format!("diffusion_model.{difference}");
    write_tensors(&file, &[(spelled.as_str(), &change)]).unwrap();
    let mut model = model();
    assert_eq!(
        apply_lora(&mut model, &file, Target::CPU_F32, SETTINGS).unwrap(),
        1
    );
    let wanted = WanTransformer::open(&changed, Target::CPU_F32).unwrap();
    (forward(&model), forward(&wanted))
}

/// Specification, section 10 item 23: a wrong name must fail.
#[test]
fn wrong_names_are_errors_that_list_them() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lora.safetensors");
    let good = read_tensors(&golden("lora/lora.safetensors")).unwrap();
    let attempt = |rename: &dyn Fn(&str) -> Option<String>| {
        let renamed: Vec<(String, &Tensor)> = good
            .iter()
            .filter_map(|(name, tensor)| Some((rename(name)?, tensor)))
            .collect();
        let views: Vec<(&str, &Tensor)> = renamed
            .iter()
            .map(|(name, tensor)| (name.as_str(), *tensor))
            .collect();
        write_tensors(&path, &views).unwrap();
        apply_lora(&mut model(), &path, Target::CPU_F32, SETTINGS).map_err(|e| e.to_string())
    };
    assert_eq!(attempt(&|name| Some(name.to_owned())), Ok(20));
    let error = attempt(&|name| Some(name.replace("base_model.", "base."))).unwrap_err();
    assert!(error.contains("not known: base.model.blocks.0."), "{error}");
    assert!(error.contains("read in the forms of peft"), "{error}");
    let error = attempt(&|name| Some(name.replace("blocks.1.", "blocks.7."))).unwrap_err();
    assert!(error.contains("blocks.7.attn1.to_q"), "{error}");
    let half = |name: &str| (!name.contains("1.ffn.2.lora_B")).then(|| name.to_owned());
    let error = attempt(&half).unwrap_err();
    assert!(
        error.contains("blocks.1.ffn.net.2.lora_B.weight"),
        "{error}"
    );
    let error = attempt(&|_| None).unwrap_err();
    assert!(error.contains("no adapter"), "{error}");
}
