//! A small autoencoder of pictures, of the variant of FLUX, that keeps colours.
//!
//! The first eight channels of every hidden layer, one group of its norms, carry red, green, blue, their
//! negatives, and a large constant with its negative around the residual branches. The constant makes up most of
//! the group's deviation, so that the norms hardly see the colours; positive and negative copies undo the
//! activation before the last layer: `silu(x) - silu(-x) = x`. All other channels are random.

use serde_json::{Value, json};
use storyloom_story::Seed;

use super::sheet::Sheet;

/// Channels that carry something: colours, negatives, constant, its negative.
const CARRIED: i64 = 8;
/// The constant, in the first layers of both halves.
const CONSTANT: f32 = 4.0;
/// What the norm before the last layer divides by: the deviation of the group.
const NORM: f32 = CONSTANT / 2.0;
/// Spread of the colour latents for colours in [-1, 1]; about 1 once they are scaled.
const COLOUR_GAIN: f32 = 3.0;
const SHIFT: f32 = 0.1159;
const LATENT: i64 = 16;

/// `vae/config.json`.
pub(super) fn config() -> Value {
    json!({
        "_class_name": "AutoencoderKL",
        "_diffusers_version": super::hub::DIFFUSERS,
        "act_fn": "silu",
        "block_out_channels": [32, 32, 32, 32],
        "down_block_types": vec!["DownEncoderBlock2D"; 4],
        "force_upcast": true,
        "in_channels": 3,
        "latent_channels": LATENT,
        "latents_mean": null,
        "latents_std": null,
        "layers_per_block": 1,
        "mid_block_add_attention": true,
        "norm_num_groups": 4,
        "out_channels": 3,
        "sample_size": 128,
        "scaling_factor": 0.3611,
        "shift_factor": SHIFT,
        "up_block_types": vec!["UpDecoderBlock2D"; 4],
        "use_post_quant_conv": false,
        "use_quant_conv": false,
    })
}

/// The values of the tensor `name`.
pub(super) fn fill(seed: Seed, name: &str, shape: &[i64]) -> Sheet {
    let label = format!("picture_vae/{name}");
    if name.contains("norm") {
        return norm(seed, &label, name, shape);
    }
    if name.ends_with("bias") {
        return bias(name, shape);
    }
    let sheet = Sheet::layer(seed, &label, shape, 0.3);
    match name {
        "encoder.conv_in.weight" => colours_in(sheet, 1.0),
        "encoder.conv_out.weight" => {
            let mut sheet = colours_out(sheet, NORM * COLOUR_GAIN);
            sheet.fill_rows(LATENT..2 * LATENT, 0.0);
            sheet
        }
        "decoder.conv_in.weight" => colours_in(sheet, 1.0 / COLOUR_GAIN),
        "decoder.conv_out.weight" => colours_out(sheet, NORM),
        _ => inner(name, sheet),
    }
}

/// The carried group is normed as it is.
fn norm(seed: Seed, label: &str, name: &str, shape: &[i64]) -> Sheet {
    if name.ends_with("bias") {
        return Sheet::constant(shape, 0.0);
    }
    let mut sheet = Sheet::noise(seed, label, shape, 0.02).plus(&Sheet::constant(shape, 1.0));
    sheet.fill_rows(0..CARRIED, 1.0);
    sheet
}

fn bias(name: &str, shape: &[i64]) -> Sheet {
    let mut sheet = Sheet::constant(shape, 0.0);
    match name {
        "encoder.conv_in.bias" => constants(&mut sheet, 0.0),
        "decoder.conv_in.bias" => constants(&mut sheet, SHIFT / COLOUR_GAIN),
        "encoder.conv_out.bias" => {
            sheet.fill_rows(0..LATENT, SHIFT);
            // A small variance of the posterior.
            sheet.fill_rows(LATENT..2 * LATENT, -6.0);
        }
        _ => {}
    }
    sheet
}

/// The constant and its negative, and `shift` off the colours.
fn constants(sheet: &mut Sheet, shift: f32) {
    for colour in 0..3 {
        sheet.set(&[colour], -shift);
        sheet.set(&[colour + 3], shift);
    }
    sheet.set(&[CARRIED - 2], CONSTANT);
    sheet.set(&[CARRIED - 1], -CONSTANT);
}

/// The first layer of a half: three channels to colours and their negatives.
fn colours_in(mut sheet: Sheet, gain: f32) -> Sheet {
    sheet.fill_rows(0..CARRIED, 0.0);
    for colour in 0..3 {
        sheet.set(&[colour, colour, 1, 1], gain);
        sheet.set(&[colour + 3, colour, 1, 1], -gain);
    }
    sheet
}

/// The last layer of a half: colours from their positive and negative copies after the activation.
fn colours_out(mut sheet: Sheet, gain: f32) -> Sheet {
    let rows = sheet.shape()[0];
    for row in 0..rows {
        for carried in 0..CARRIED {
            for tap in 0..9 {
                sheet.set(&[row, carried, tap / 3, tap % 3], 0.0);
            }
        }
    }
    sheet.fill_rows(0..3, 0.0);
    for colour in 0..3 {
        sheet.set(&[colour, colour, 1, 1], gain);
        sheet.set(&[colour, colour + 3, 1, 1], -gain);
    }
    sheet
}

/// Layers inside: residual branches and the attention leave the carried channels alone, halvings average them
/// and doublings interpolate.
fn inner(name: &str, mut sheet: Sheet) -> Sheet {
    // The picture is padded on the right and below: the first four taps are one block.
    const AVERAGE: [[f32; 3]; 3] = [[0.25, 0.25, 0.0], [0.25, 0.25, 0.0], [0.0; 3]];
    const INTERPOLATE: [[f32; 3]; 3] = [
        [0.0625, 0.125, 0.0625],
        [0.125, 0.25, 0.125],
        [0.0625, 0.125, 0.0625],
    ];
    let is_end = name.ends_with("conv2.weight") || name.ends_with("to_out.0.weight");
    let kernel = if name.contains("downsamplers") {
        Some(AVERAGE)
    } else if name.contains("upsamplers") {
        Some(INTERPOLATE)
    } else {
        None
    };
    if is_end || kernel.is_some() {
        sheet.fill_rows(0..CARRIED, 0.0);
    }
    for (row, line) in (0..).zip(kernel.into_iter().flatten()) {
        for (column, value) in (0..).zip(line) {
            for channel in 0..CARRIED {
                sheet.set(&[channel, channel, row, column], value);
            }
        }
    }
    sheet
}
