//! Translation of the original Wan tensor names to those of diffusers.

/// Which layout the tensors of a file are named in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyMap {
    /// Names are used as they are.
    Identity,
    /// A transformer in the original Wan layout (`blocks.0.self_attn.q.weight`, …).
    WanTransformer,
}

impl KeyMap {
    /// The diffusers name of the tensor called `name` in the file.
    pub fn to_diffusers(self, name: &str) -> String {
        match self {
            Self::Identity => name.to_owned(),
            Self::WanTransformer => wan_transformer(name),
        }
    }
}

/// The map of the Wan transformer, specification `wan22` section 2.1.
///
/// Translation goes by whole path components, so that `k_img` is never taken for `k`.
fn wan_transformer(name: &str) -> String {
    const TOP: &[(&str, &str)] = &[
        (
            "text_embedding.0.",
            "condition_embedder.text_embedder.linear_1.",
        ),
        (
            "text_embedding.2.",
            "condition_embedder.text_embedder.linear_2.",
        ),
        (
            "time_embedding.0.",
            "condition_embedder.time_embedder.linear_1.",
        ),
        (
            "time_embedding.2.",
            "condition_embedder.time_embedder.linear_2.",
        ),
        ("time_projection.1.", "condition_embedder.time_proj."),
        ("head.modulation", "scale_shift_table"),
        ("head.head.", "proj_out."),
        (
            "img_emb.proj.0.",
            "condition_embedder.image_embedder.norm1.",
        ),
        (
            "img_emb.proj.1.",
            "condition_embedder.image_embedder.ff.net.0.proj.",
        ),
        (
            "img_emb.proj.3.",
            "condition_embedder.image_embedder.ff.net.2.",
        ),
        (
            "img_emb.proj.4.",
            "condition_embedder.image_embedder.norm2.",
        ),
        (
            "img_emb.emb_pos",
            "condition_embedder.image_embedder.pos_embed",
        ),
    ];
    for (original, diffusers) in TOP {
        if let Some(rest) = name.strip_prefix(original) {
            return format!("{diffusers}{rest}");
        }
    }
    let block = name
        .strip_prefix("blocks.")
        .and_then(|rest| rest.split_once('.'));
    let Some((index, inside)) = block else {
        return name.to_owned();
    };
    format!("blocks.{index}.{}", wan_block(inside))
}

fn wan_block(inside: &str) -> String {
    if inside == "modulation" {
        return "scale_shift_table".to_owned();
    }
    const PARTS: &[(&str, &str)] = &[
        ("norm3.", "norm2."),
        ("ffn.0.", "ffn.net.0.proj."),
        ("ffn.2.", "ffn.net.2."),
    ];
    for (original, diffusers) in PARTS {
        if let Some(rest) = inside.strip_prefix(original) {
            return format!("{diffusers}{rest}");
        }
    }
    let attention = inside
        .split_once('.')
        .and_then(|(attention, rest)| Some((attention, rest.split_once('.')?)));
    let Some((attention, (member, leaf))) = attention else {
        return inside.to_owned();
    };
    let attention = match attention {
        "self_attn" => "attn1",
        "cross_attn" => "attn2",
        _ => return inside.to_owned(),
    };
    let member = match member {
        "q" => "to_q",
        "k" => "to_k",
        "v" => "to_v",
        "o" => "to_out.0",
        "k_img" => "add_k_proj",
        "v_img" => "add_v_proj",
        "norm_k_img" => "norm_added_k",
        same => same,
    };
    format!("{attention}.{member}.{leaf}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_map_of_wan22_2_1() {
        for (original, diffusers) in [
            ("patch_embedding.weight", "patch_embedding.weight"),
            (
                "text_embedding.0.bias",
                "condition_embedder.text_embedder.linear_1.bias",
            ),
            (
                "time_projection.1.weight",
                "condition_embedder.time_proj.weight",
            ),
            ("blocks.3.modulation", "blocks.3.scale_shift_table"),
            (
                "blocks.11.self_attn.q.weight",
                "blocks.11.attn1.to_q.weight",
            ),
            ("blocks.0.self_attn.o.bias", "blocks.0.attn1.to_out.0.bias"),
            (
                "blocks.0.cross_attn.k_img.bias",
                "blocks.0.attn2.add_k_proj.bias",
            ),
            (
                "blocks.0.cross_attn.norm_k_img.weight",
                "blocks.0.attn2.norm_added_k.weight",
            ),
            (
                "blocks.0.cross_attn.norm_q.weight",
                "blocks.0.attn2.norm_q.weight",
            ),
            ("blocks.0.norm3.weight", "blocks.0.norm2.weight"),
            ("blocks.0.ffn.0.weight", "blocks.0.ffn.net.0.proj.weight"),
            ("blocks.0.ffn.2.bias", "blocks.0.ffn.net.2.bias"),
            ("head.modulation", "scale_shift_table"),
            ("head.head.weight", "proj_out.weight"),
            (
                "img_emb.proj.4.bias",
                "condition_embedder.image_embedder.norm2.bias",
            ),
            (
                "img_emb.emb_pos",
                "condition_embedder.image_embedder.pos_embed",
            ),
        ] {
            assert_eq!(KeyMap::WanTransformer.to_diffusers(original), diffusers);
        }
    }
}
