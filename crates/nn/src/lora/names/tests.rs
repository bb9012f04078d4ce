//! Names of adapters are read as what they are, and nothing else is.

use proptest::prelude::*;

use super::wan::{BLOCK_LAYERS, original_layer};
use super::*;
use crate::testing::flux::FluxSizes;

/// Names as they stand in published files.
#[test]
fn published_names_are_read() {
    for (name, layer, piece, form) in [
        (
            "base_model.model.blocks.0.self_attn.q.lora_A.weight",
            "blocks.0.attn1.to_q",
            Piece::Down,
            Form::Peft,
        ),
        (
            "diffusion_model.blocks.39.ffn.0.lora_up.weight",
            "blocks.39.ffn.net.0.proj",
            Piece::Up,
            Form::ComfyUi,
        ),
        (
            "diffusion_model.blocks.3.cross_attn.k.alpha",
            "blocks.3.attn2.to_k",
            Piece::Alpha,
            Form::ComfyUi,
        ),
        (
            "transformer.blocks.1.attn1.to_out.0.lora_B.weight",
            "blocks.1.attn1.to_out.0",
            Piece::Up,
            Form::Diffusers,
        ),
        (
            "lora_unet_blocks_10_cross_attn_k_img.lora_down.weight",
            "blocks.10.attn2.add_k_proj",
            Piece::Down,
            Form::Kohya,
        ),
        (
            "lora_unet_blocks_1_attn1_to_out_0.alpha",
            "blocks.1.attn1.to_out.0",
            Piece::Alpha,
            Form::Kohya,
        ),
        (
            "blocks.7.self_attn.o.lora_A.default.weight",
            "blocks.7.attn1.to_out.0",
            Piece::Down,
            Form::Bare,
        ),
        (
            "pipe.dit.blocks.7.ffn.2.lora_B.default.weight",
            "blocks.7.ffn.net.2",
            Piece::Up,
            Form::DiffSynth,
        ),
        (
            "diffusion_model.blocks.2.self_attn.norm_k.diff",
            "blocks.2.attn1.norm_k",
            Piece::WeightDifference,
            Form::ComfyUi,
        ),
        (
            "diffusion_model.time_embedding.0.diff_b",
            "condition_embedder.time_embedder.linear_1",
            Piece::BiasDifference,
            Form::ComfyUi,
        ),
        (
            "diffusion_model.blocks.2.diff_m",
            "blocks.2.scale_shift_table",
            Piece::WeightDifference,
            Form::ComfyUi,
        ),
        (
            "diffusion_model.head.diff_m",
            "scale_shift_table",
            Piece::WeightDifference,
            Form::ComfyUi,
        ),
        (
            "diffusion_model.head.head.lora_down.weight",
            "proj_out",
            Piece::Down,
            Form::ComfyUi,
        ),
    ] {
        let found = read(name).unwrap_or_else(|| panic!("{name}"));
        assert_eq!(
            (found.layers, found.piece, found.form),
            (Layers::One(layer.to_owned()), piece, form)
        );
    }
}

#[test]
fn other_names_are_not() {
    for name in [
        "blocks.0.self_attn.q.weight",
        "blocks.0.self_attn.q",
        "blocks.00.self_attn.q.lora_A.weight",
        "blocks.+1.self_attn.q.lora_A.weight",
        "lora_unet_blocks.0.self_attn.q.lora_down.weight",
        "base_model.model.transformer_blocks.0.attn1.to_q.lora_A.weight",
        "lora_A.weight",
        ".alpha",
        "",
    ] {
        assert_eq!(read(name), None, "{name}");
    }
    assert_eq!(other_kind("x.lora_magnitude_vector.weight"), Some("DoRA"));
    assert_eq!(other_kind("blocks.0.self_attn.q.weight"), None);
}

proptest! {
    /// Every prefix with every layer in either vocabulary and every end is read as just that.
    #[test]
    fn every_combination_is_read_as_what_it_is(
        prefix in 0..PREFIXES.len(),
        inside in 0..BLOCK_LAYERS.len(),
        end in 0..ENDS.len() - 1,
        block in 0_u32..100,
        in_diffusers in any::<bool>(),
    ) {
        let (prefix, form, separator) = PREFIXES[prefix];
        let (end, piece, halves) = ENDS[end];
        let (original, diffusers) =
            original_layer(format!("blocks.{block}.{}", BLOCK_LAYERS[inside]));
        let word = if in_diffusers { &diffusers } else { &original };
        let written = match separator {
            Separator::Dot => word.clone(),
            Separator::Underscore => word.replace('.', "_"),
        };
        let found = read(&format!("{prefix}{written}{end}"));
        let layers = Layers::One(diffusers);
        let network = Some(Network::Wan);
        let wanted = Spelling { layers, written, piece, form, halves, network };
        prop_assert_eq!(found, Some(wanted));
    }

    /// No two layers of a model have the same name, in any spelling.
    #[test]
    fn layers_are_not_confused(a in 0..BLOCK_LAYERS.len(), b in 0..BLOCK_LAYERS.len()) {
        let flat = |layer: &str| layer.replace('.', "_");
        let [a, b] = [a, b].map(|layer| original_layer(format!("blocks.1.{}", BLOCK_LAYERS[layer])));
        let names = |(x, y): &(String, String)| [flat(x), flat(y)];
        if a.1 != b.1 {
            for name in names(&a) {
                prop_assert!(!names(&b).contains(&name), "{}", name);
            }
        }
    }

    #[test]
    fn any_text_is_read_without_a_panic(name in ".{0,60}") {
        let _ = read(&name);
        let _ = other_kind(&name);
    }
}

fn stacked(block: &str, parts: &[&str]) -> Layers {
    Layers::Stacked(parts.iter().map(|part| format!("{block}.{part}")).collect())
}

/// Names as the forms of specification `flux`, section 6.2, write them.
#[test]
fn every_form_of_flux_is_read() {
    let image = ["attn.to_q", "attn.to_k", "attn.to_v"];
    let text = ["attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"];
    let double = "transformer_blocks.0";
    let single = "single_transformer_blocks.37";
    let one = |layer: &str| Layers::One(layer.to_owned());
    let fused_single = ["attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"];
    for (name, layers, piece, form) in [
        (
            "transformer.transformer_blocks.0.attn.to_q.lora_A.weight",
            one("transformer_blocks.0.attn.to_q"),
            Piece::Down,
            Form::Diffusers,
        ),
        (
            "transformer.time_text_embed.guidance_embedder.linear_2.lora_up.weight",
            one("time_text_embed.guidance_embedder.linear_2"),
            Piece::Up,
            Form::Diffusers,
        ),
        (
            "transformer.single_transformer_blocks.37.proj_mlp.alpha",
            one("single_transformer_blocks.37.proj_mlp"),
            Piece::Alpha,
            Form::Diffusers,
        ),
        (
            "lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight",
            stacked(double, &image),
            Piece::Down,
            Form::Kohya,
        ),
        (
            "lora_unet_double_blocks_0_txt_mlp_2.lora_up.weight",
            one("transformer_blocks.0.ff_context.net.2"),
            Piece::Up,
            Form::Kohya,
        ),
        (
            "lora_unet_single_blocks_37_linear1.alpha",
            stacked(single, &fused_single),
            Piece::Alpha,
            Form::Kohya,
        ),
        (
            "lora_unet_final_layer_adaLN_modulation_1.lora_up.weight",
            Layers::Swapped("norm_out.linear".to_owned()),
            Piece::Up,
            Form::Kohya,
        ),
        (
            "diffusion_model.double_blocks.0.txt_attn.qkv.lora_down.weight",
            stacked(double, &text),
            Piece::Down,
            Form::ComfyUi,
        ),
        (
            "lora_transformer_single_transformer_blocks_37_attn_to_q.lora_down.weight",
            one("single_transformer_blocks.37.attn.to_q"),
            Piece::Down,
            Form::KohyaDiffusers,
        ),
        (
            "double_blocks.0.processor.qkv_lora1.down.weight",
            stacked(double, &image),
            Piece::Down,
            Form::XLabs,
        ),
        (
            "double_blocks.0.processor.qkv_lora2.up.weight",
            stacked(double, &text),
            Piece::Up,
            Form::XLabs,
        ),
        (
            "double_blocks.0.processor.proj_lora2.up.weight",
            one("transformer_blocks.0.attn.to_add_out"),
            Piece::Up,
            Form::XLabs,
        ),
        (
            "single_blocks.37.processor.qkv_lora.down.weight",
            stacked(single, &image),
            Piece::Down,
            Form::XLabs,
        ),
        (
            "single_blocks.37.processor.proj_lora.down.weight",
            one("single_transformer_blocks.37.proj_out"),
            Piece::Down,
            Form::XLabs,
        ),
        (
            "base_model.model.double_blocks.0.img_mod.lin.lora_B.weight",
            one("transformer_blocks.0.norm1.linear"),
            Piece::Up,
            Form::Peft,
        ),
    ] {
        let found = read(name).unwrap_or_else(|| panic!("{name}"));
        assert_eq!(
            (found.layers, found.piece, found.form),
            (layers, piece, form)
        );
        assert_eq!(found.network, Some(Network::Flux), "{name}");
    }
    // Both networks have a layer of this name.
    let both = read("transformer.proj_out.lora_A.weight").unwrap();
    assert_eq!((both.layers, both.network), (one("proj_out"), None));
}

#[test]
fn names_that_are_almost_those_of_flux_are_not_read() {
    for name in [
        "lora_unet_double_blocks_0_img_attn_norm_key_norm.lora_down.weight",
        "lora_unet_double_blocks_00_img_mod_lin.lora_down.weight",
        "lora_unet_double_blocks_0_linear1.lora_down.weight",
        "lora_unet_double_blocks.0.img_mod.lin.lora_down.weight",
        "double_blocks.0.processor.qkv_lora.down.weight",
        "double_blocks.0.processor.qkv_lora3.down.weight",
        "single_blocks.0.processor.qkv_lora1.down.weight",
        "double_blocks.0.processor.qkv_lora1.lora_down.weight",
        "double_blocks.0.processor.qkv_lora1.alpha",
        "double_blocks.0.img_attn.qkv.down.weight",
        "double_blocks.0.diff_m",
        "transformer.transformer_blocks.0.attn.qkv.lora_A.weight",
    ] {
        assert_eq!(read(name), None, "{name}");
    }
}

#[test]
fn other_kinds_are_told_by_name() {
    for (name, kind) in [
        (
            "lora_te1_text_model_encoder_layers_0_mlp_fc1.alpha",
            TEXT_ENCODER,
        ),
        ("text_encoder.text_model.x.lora_A.weight", TEXT_ENCODER),
        (
            "text_encoders.t5xxl.transformer.x.diff",
            "an adapter of the text encoder T5",
        ),
        (
            "transformer_blocks.0.attn.to_q.lora_B.bias",
            "a LoRA with biases",
        ),
        ("double_blocks.0.img_attn.norm.query_norm.scale", CONTROL),
        (
            "lora_unet_distilled_guidance_layer_x.alpha",
            "an adapter of Chroma",
        ),
        ("lora_unet_double_blocks_0_img_mod_lin.lokr_w1", "LoKr"),
        ("lora_unet_double_blocks_0_img_mod_lin.hada_w1_a", "LoHa"),
        ("lora_unet_double_blocks_0_img_mod_lin.dora_scale", "DoRA"),
    ] {
        assert_eq!(read(name), None, "{name}");
        assert_eq!(other_kind(name), Some(kind), "{name}");
    }
    assert!(is_of_text_encoder("lora_te1_x.alpha") && !is_of_text_encoder("t5xxl.x.alpha"));
}

#[test]
fn the_name_that_was_meant_is_found() {
    for (name, wanted) in [
        (
            "transformer.transformer_blocks.3.attn.toq.lora_A.weight",
            Some("transformer.transformer_blocks.3.attn.to_q.lora_A.weight"),
        ),
        (
            "lora_unet_double_blocks_12_img_atn_qkv.alpha",
            Some("lora_unet_double_blocks_12_img_attn_qkv.alpha"),
        ),
        (
            "diffusion_model.blocks.7.self_attn.q.lora_dwn.weight",
            Some("diffusion_model.blocks.7.self_attn.q.lora_down.weight"),
        ),
        (
            "base.model.blocks.0.self_attn.q.lora_A.weight",
            Some("base_model.model.blocks.0.self_attn.q.lora_A.weight"),
        ),
        ("something.else.entirely", None),
    ] {
        assert_eq!(nearest_name(name).as_deref(), wanted);
    }
    let exists = |layer: &str| layer.starts_with("transformer_blocks.1.");
    let near = |layer| nearest_layer(layer, exists);
    assert_eq!(
        near("transformer_blocks.19.attn.to_q").as_deref(),
        Some("transformer_blocks.1.attn.to_q")
    );
    assert_eq!(near("x_embedder"), None);
    assert_eq!(near("single_transformer_blocks.4000000000.proj_mlp"), None);
}

proptest! {
    /// Every layer of FLUX with a weight of two axes, in every form with the names of diffusers.
    #[test]
    fn every_layer_of_flux_is_read_in_the_names_of_diffusers(
        prefix in 0..PREFIXES.len(),
        which in any::<prop::sample::Index>(),
        end in 0..ENDS.len() - 1,
    ) {
        let shapes = FluxSizes::TINY.shapes();
        let layers: Vec<&str> = shapes
            .iter()
            .filter(|(_, shape)| shape.len() == 2)
            .filter_map(|(name, _)| name.strip_suffix(".weight"))
            .collect();
        let layer = which.get(&layers);
        let (prefix, form, separator) = PREFIXES[prefix];
        let (end, piece, _) = ENDS[end];
        let found = read(&format!("{prefix}{}{end}", separator.written(layer))).unwrap();
        prop_assert_eq!(found.layers, Layers::One((*layer).to_owned()));
        prop_assert_eq!((found.piece, found.form), (piece, form));
    }

    /// A wrong letter anywhere in a layer is a name that is not read, or that of another layer.
    #[test]
    fn no_two_names_are_one(at in any::<prop::sample::Index>(), letter in "[a-z._]") {
        let layer = "double_blocks_3_img_attn_qkv";
        let mut wrong = layer.to_owned();
        let at = at.index(layer.len());
        wrong.replace_range(at..=at, &letter);
        let read = |layer: &str| read(&format!("lora_unet_{layer}.alpha")).map(|it| it.layers);
        prop_assert!(read(layer).is_some());
        if wrong != layer {
            prop_assert_ne!(read(&wrong), read(layer));
        }
    }
}
