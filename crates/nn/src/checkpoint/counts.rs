//! Bounds of the counts and widths that the config of a checkpoint may ask for.
//!
//! Networks are built by their configs before their weights are looked for. A number that no network has,
//! by a damaged file or by somebody's hand, is refused by name, before anything of that size is asked for.

use serde_json::Value;

/// Most layers, blocks and experts.
const LAYERS: u64 = 4096;
/// Widest side of a tensor, but for vocabularies.
const WIDTH: u64 = 1 << 20;
/// Most entries of a vocabulary.
const ENTRIES: u64 = 1 << 24;
/// Longest text in tokens.
const POSITIONS: u64 = 1 << 30;
/// Most numbers in a list.
const LIST: usize = 1024;

/// The keys that size anything, in all layouts that are read, with the most that each may be.
const BOUNDS: [(u64, &[&str]); 4] = [
    (
        LAYERS,
        &[
            "connector_layers",
            "depth",
            "num_experts",
            "num_experts_per_tok",
            "num_hidden_layers",
            "num_layers",
            "num_local_experts",
            "num_res_blocks",
            "num_single_layers",
        ],
    ),
    (
        WIDTH,
        &[
            "added_kv_proj_dim",
            "attention_head_dim",
            "axes_dims_rope",
            "base_dim",
            "connector_heads",
            "connector_intermediate_size",
            "d_ff",
            "d_kv",
            "d_model",
            "decoder_base_dim",
            "dim",
            "dim_mult",
            "embed_dim",
            "ffn_dim",
            "freq_dim",
            "head_dim",
            "hidden_size",
            "image_dim",
            "image_size",
            "in_chans",
            "in_channels",
            "in_dim",
            "intermediate_size",
            "joint_attention_dim",
            "moe_intermediate_size",
            "num_attention_heads",
            "num_channels",
            "num_heads",
            "num_key_value_heads",
            "num_queries",
            "out_channels",
            "out_dim",
            "out_hidden_size",
            "patch_size",
            "pooled_projection_dim",
            "pooled_width",
            "pos_embed_seq_len",
            "projection_dim",
            "relative_attention_max_distance",
            "relative_attention_num_buckets",
            "spatial_merge_size",
            "temporal_patch_size",
            "text_dim",
            "text_width",
            "window_size",
            "z_dim",
        ],
    ),
    (ENTRIES, &["vocab_size"]),
    (POSITIONS, &["max_position_embeddings"]),
];

/// Refuses a config that asks for more than any network has; the reason names key, value and bound.
pub(super) fn check(config: &Value) -> Result<(), String> {
    match config {
        Value::Object(entries) => entries.iter().try_for_each(|(key, value)| {
            let most = BOUNDS.iter().find(|(_, keys)| keys.contains(&key.as_str()));
            match most {
                Some(&(most, _)) => check_numbers(key, value, most),
                None => check(value),
            }
        }),
        Value::Array(list) => list.iter().try_for_each(check),
        _ => Ok(()),
    }
}

fn check_numbers(key: &str, value: &Value, most: u64) -> Result<(), String> {
    match value {
        Value::Number(number) => match number.as_u64() {
            Some(count) if count <= most => Ok(()),
            _ => Err(format!("{key} = {number} must be 0 to {most}")),
        },
        Value::Array(list) if list.len() > LIST => {
            let count = list.len();
            Err(format!(
                "{key} is a list of {count}, at most {LIST} are possible"
            ))
        }
        Value::Array(list) => list
            .iter()
            .try_for_each(|value| check_numbers(key, value, most)),
        other => check(other),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn counts_that_no_network_has_are_refused_by_name() {
        for (config, wanted) in [
            (
                json!({"num_layers": 10_000_000}),
                "num_layers = 10000000 must be 0 to 4096",
            ),
            (
                json!({"text_config": {"hidden_size": 1_u64 << 40}}),
                "hidden_size = 1099511627776",
            ),
            (json!({"ffn_dim": -1}), "ffn_dim = -1 must be"),
            (
                json!({"dim_mult": [1, 2, 1 << 30]}),
                "dim_mult = 1073741824",
            ),
            (
                json!({"dim_mult": vec![1; 2000]}),
                "dim_mult is a list of 2000",
            ),
            (json!({"vocab_size": 1e30}), "vocab_size = 1e+30"),
        ] {
            let said = check(&config).unwrap_err();
            assert!(said.contains(wanted), "{said}");
        }
        let fine = json!({
            "num_layers": 40, "vocab_size": 256_384, "pos_embed_seq_len": null, "patch_size": [1, 2, 2],
            "rope_theta": 5_000_000_000_u64, "attn_scales": [], "vision_config": {"depth": 32},
        });
        assert_eq!(check(&fine), Ok(()));
    }
}
