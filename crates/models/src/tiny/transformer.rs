//! Small transformers that turn noise into smooth fields of colour.
//!
//! The residual stream of 96 channels has three parts: the 64 values of the patch itself, 16
//! "ideas" that collect the prompt and the low frequencies of the noise, and 16 channels that
//! carry the condition latents (memory pictures, given frames). Self-attention with positions in
//! its biases blurs ideas and condition over neighbours; the head predicts the velocity that leads
//! from the patch to the clean latent that ideas and condition ask for. Everything else is
//! random.

use storyloom_story::Seed;

use super::sheet::Sheet;

const HEADS: i64 = 4;
pub(super) const HEAD_DIM: i64 = 24;
/// Width of the residual stream.
pub(super) const WIDTH: i64 = HEADS * HEAD_DIM;
/// Latent channels.
pub(super) const LATENT: i64 = 16;
/// Channels `0..PATCH` are the patch, position-slowest.
const PATCH: i64 = 4 * LATENT;
/// Two channels of opposite constants, so large that the norms divide all tokens by about the
/// same deviation; channels `PATCH..ANCHOR` are the ideas.
const ANCHOR: i64 = PATCH + 13;
/// A channel that is zero in every token.
const ZERO: i64 = PATCH + 15;
/// First channel of the carried condition.
const CONDITION: i64 = ZERO + 1;
/// Size of the anchors, and the deviation of a token that comes of it.
const ANCHOR_SIZE: f32 = 10.0;
const DEVIATION: f32 = 1.6;
/// First channel of the condition latents in the input of an image-to-video model.
const CONDITION_INPUT: i64 = 20;
const FFN: i64 = 192;
pub(super) const LAYERS: i64 = 4;
const TEXT_DIM: i64 = super::text::WIDTH;

/// Share of the condition latents in the clean latent.
const CONDITION_SHARE: f32 = 0.25;
/// Spread of the ideas in the clean latent: colour channels and the rest.
const IDEA_SHARE: [f32; 2] = [0.2, 0.1];

/// `transformer/config.json` of a model with `in_channels`, 16 or 36.
pub(super) fn config(in_channels: i64) -> serde_json::Value {
    serde_json::json!({
        "_class_name": "WanTransformer3DModel",
        "_diffusers_version": super::hub::DIFFUSERS,
        "added_kv_proj_dim": null,
        "attention_head_dim": HEAD_DIM,
        "cross_attn_norm": true,
        "eps": 1e-6,
        "ffn_dim": FFN,
        "freq_dim": 256,
        "image_dim": null,
        "in_channels": in_channels,
        "num_attention_heads": HEADS,
        "num_layers": LAYERS,
        "out_channels": LATENT,
        "patch_size": [1, 2, 2],
        "pos_embed_seq_len": null,
        "qk_norm": "rms_norm_across_heads",
        "rope_max_seq_len": 1024,
        "text_dim": TEXT_DIM,
    })
}

/// The layers of a block that StoryMem adapts, by their original names: (name, inputs, outputs).
pub(super) fn adapted() -> Vec<(String, i64, i64)> {
    let attention = ["self_attn", "cross_attn"]
        .into_iter()
        .flat_map(|attention| {
            ["q", "k", "v", "o"].map(|layer| (format!("{attention}.{layer}"), WIDTH, WIDTH))
        });
    attention
        .chain([
            ("ffn.0".to_owned(), WIDTH, FFN),
            ("ffn.2".to_owned(), FFN, WIDTH),
        ])
        .collect()
}

/// The values of the tensor `name`. `expert` names the model: all four share most of their
/// weights, so that a prompt means the same to each.
pub(super) fn fill(seed: Seed, expert: &str, name: &str, shape: &[i64]) -> Sheet {
    let own = format!("{expert}/{name}");
    let shared = format!("transformer/{name}");
    let random = |gain: f32| {
        Sheet::layer(seed, &shared, shape, gain).plus(&Sheet::layer(seed, &own, shape, 0.1 * gain))
    };
    let inside = name
        .strip_prefix("blocks.")
        .and_then(|rest| rest.split_once('.'))
        .map_or(name, |(_, inside)| inside);
    match inside {
        "patch_embedding.weight" => patch(shape),
        "patch_embedding.bias" => anchors(shape),
        "proj_out.weight" => head(Sheet::noise(seed, &shared, shape, 1.0)),
        "scale_shift_table" => table(Sheet::noise(seed, &own, shape, 0.02)),
        "attn1.to_q.bias" | "attn1.to_k.bias" => positions(shape),
        "attn1.to_v.weight" => self_values(Sheet::layer(seed, &shared, shape, 1.0)),
        "attn1.to_out.0.weight" => self_output(random(3.0)),
        "attn2.to_q.bias" => Sheet::noise(seed, &query_label(name), shape, 1.0),
        // Padding rows have this key alone: it points away from every query.
        "attn2.to_k.bias" => Sheet::noise(seed, &query_label(name), shape, -0.3),
        "attn2.to_out.0.weight" => ideas_only(random(0.4)),
        "ffn.net.2.weight" => ideas_only(random(0.05)),
        "ffn.net.0.proj.bias" => Sheet::noise(seed, &own, shape, 0.3),
        "condition_embedder.time_embedder.linear_1.bias" => time_knots(shape),
        _ if name.ends_with("bias") => Sheet::constant(shape, 0.0),
        _ if name.contains("norm") => {
            Sheet::noise(seed, &own, shape, 0.02).plus(&Sheet::constant(shape, 1.0))
        }
        "attn1.to_q.weight" | "attn1.to_k.weight" => random(0.25),
        "attn2.to_q.weight" => quiet_patch(random(0.3)),
        "ffn.net.0.proj.weight" => quiet_patch(random(1.6)),
        "condition_embedder.time_embedder.linear_1.weight" => time_ramps(random(1.0)),
        "condition_embedder.time_embedder.linear_2.weight" => time_sum(random(0.02)),
        "condition_embedder.time_proj.weight" => random(0.02),
        _ => random(1.0),
    }
}

/// Queries and padding keys of a layer share their direction.
fn query_label(name: &str) -> String {
    let block = name.split('.').nth(1).unwrap_or_default();
    format!("transformer/cross-query/{block}")
}

fn patch(shape: &[i64]) -> Sheet {
    let mut sheet = Sheet::constant(shape, 0.0);
    for (place, row, column) in corners() {
        for channel in 0..LATENT {
            sheet.set(&[place * LATENT + channel, channel, 0, row, column], 1.0);
            if shape[1] > LATENT {
                let from = CONDITION_INPUT + channel;
                sheet.set(&[CONDITION + channel, from, 0, row, column], 0.25);
            }
        }
    }
    sheet
}

fn anchors(shape: &[i64]) -> Sheet {
    let mut sheet = Sheet::constant(shape, 0.0);
    sheet.set(&[ANCHOR], ANCHOR_SIZE);
    sheet.set(&[ANCHOR + 1], -ANCHOR_SIZE);
    sheet
}

/// The four positions of a patch as (index, row, column).
fn corners() -> impl Iterator<Item = (i64, i64, i64)> {
    (0..4).map(|place| (place, place / 2, place % 2))
}

/// Velocity = (patch - ideas - condition) / sigma, the same ideas for all four positions.
///
/// Every row sums to zero: the zero channel takes what the others give. So neither the mean that
/// the norm removes nor the time embedding, which is added to all channels, moves the result.
fn head(noise: Sheet) -> Sheet {
    let mut sheet = Sheet::constant(noise.shape(), 0.0);
    for (place, _, _) in corners() {
        for channel in 0..LATENT {
            let row = place * LATENT + channel;
            let mut rest = DEVIATION * (CONDITION_SHARE - 1.0);
            sheet.set(&[row, place * LATENT + channel], DEVIATION);
            sheet.set(&[row, CONDITION + channel], -DEVIATION * CONDITION_SHARE);
            let share = IDEA_SHARE[usize::from(channel > 2)];
            for idea in PATCH..ANCHOR {
                let weight = DEVIATION * share * noise.get(&[channel, idea]);
                sheet.set(&[row, idea], -weight);
                rest += weight;
            }
            sheet.set(&[row, ZERO], rest);
        }
    }
    sheet
}

/// Where the slope of `1 / sigma - 1` changes, and by how much: (sigma, slope).
const RAMPS: [(f32, f32); 5] = [
    (1.0, 1.25),
    (0.8, 0.83),
    (0.6, 2.1),
    (0.4, 5.8),
    (0.25, 14.0),
];
/// Steepness of a ramp before its activation.
const STEEP: f32 = 32.0;

/// The slowest sine of the timestep is `0.1073 sigma`: each ramp becomes `steep * (knot - sigma)`.
fn time_ramps(mut sheet: Sheet) -> Sheet {
    let last = sheet.shape()[1] - 1;
    sheet.fill_rows(0..RAMPS.len() as i64, 0.0);
    for row in 0..RAMPS.len() as i64 {
        sheet.set(&[row, last], -STEEP / 0.1073);
    }
    sheet
}

fn time_knots(shape: &[i64]) -> Sheet {
    let mut sheet = Sheet::constant(shape, 0.0);
    for (row, (knot, _)) in (0..).zip(RAMPS) {
        sheet.set(&[row], STEEP * knot);
    }
    sheet
}

/// Adds the ramps up in every channel: the head's scale becomes `1 / sigma`.
fn time_sum(mut sheet: Sheet) -> Sheet {
    for row in 0..WIDTH {
        for (column, (_, slope)) in (0..).zip(RAMPS) {
            sheet.set(&[row, column], slope / STEEP);
        }
    }
    sheet
}

/// Shifts and scales near zero, gates open.
fn table(mut sheet: Sheet) -> Sheet {
    if sheet.shape()[1] == 6 {
        for channel in 0..WIDTH {
            sheet.set(&[0, 2, channel], 0.5);
            sheet.set(&[0, 5, channel], 0.4);
        }
    }
    sheet
}

/// Equal biases of queries and keys: attention by distance. The first two heads look around in
/// space, the others at everything.
fn positions(shape: &[i64]) -> Sheet {
    let mut sheet = Sheet::constant(shape, 0.0);
    for head in 0..HEADS {
        let start = head * HEAD_DIM;
        // Channels 0..8 turn with time, 8..16 with the row, 16..24 with the column; the first
        // pair of each turns fastest, the last hardly at all.
        let near = head < 2;
        sheet.set(&[start + if near { 0 } else { 6 }], 0.8);
        sheet.set(&[start + if near { 8 } else { 14 }], 1.6);
        sheet.set(&[start + if near { 16 } else { 22 }], 1.6);
    }
    sheet
}

/// Each head reads the condition in its first 16 channels and blurred noise in the rest.
fn self_values(noise: Sheet) -> Sheet {
    let mut sheet = Sheet::constant(noise.shape(), 0.0);
    for head in 0..HEADS {
        for channel in 0..LATENT {
            sheet.set(&[head * HEAD_DIM + channel, CONDITION + channel], 1.0);
        }
        for row in head * HEAD_DIM + LATENT..(head + 1) * HEAD_DIM {
            for channel in 0..LATENT {
                // One weight for the four positions: only the mean of the patch counts.
                let weight = 2.0 * noise.get(&[row, channel]);
                for (place, _, _) in corners() {
                    sheet.set(&[row, place * LATENT + channel], weight);
                }
            }
        }
    }
    sheet
}

fn self_output(noise: Sheet) -> Sheet {
    let mut sheet = ideas_only(noise);
    for head in 0..HEADS {
        for channel in 0..LATENT {
            let from = head * HEAD_DIM + channel;
            for idea in PATCH..ANCHOR {
                sheet.set(&[idea, from], 0.0);
            }
            sheet.set(&[CONDITION + channel, from], 0.25);
        }
    }
    sheet
}

/// Reads next to nothing from the patch itself, whose noise would make the picture grainy.
fn quiet_patch(mut sheet: Sheet) -> Sheet {
    for row in 0..sheet.shape()[0] {
        for column in 0..PATCH {
            let value = 0.05 * sheet.get(&[row, column]);
            sheet.set(&[row, column], value);
        }
    }
    sheet
}

/// Output rows other than the ideas are silent.
fn ideas_only(mut sheet: Sheet) -> Sheet {
    sheet.fill_rows((0..PATCH).chain(ANCHOR..WIDTH), 0.0);
    sheet
}
