//! A small autoencoder that keeps colours.
//!
//! The first seven channels of every hidden layer carry red, green, blue, their negatives and a
//! constant around the residual branches, averaged on the way down and interpolated on the way
//! up; all other channels are random. So pictures survive encoding as blurred pictures, and a
//! smooth latent decodes to a smooth picture. Positive and negative copies undo the activation
//! before the last layer: `silu(x) - silu(-x) = x`.

use storyloom_story::Seed;

use super::sheet::Sheet;
use crate::autoencoder::VaeConfig;

/// `vae/config.json`; the statistics of the latents are those of Wan 2.1.
pub(super) fn config() -> serde_json::Value {
    let defaults = VaeConfig::default();
    serde_json::json!({
        "_class_name": "AutoencoderKLWan",
        "_diffusers_version": super::hub::DIFFUSERS,
        "attn_scales": [],
        "base_dim": 16,
        "dim_mult": [1, 2, 4, 4],
        "dropout": 0.0,
        "latents_mean": defaults.latents_mean,
        "latents_std": defaults.latents_std,
        "num_res_blocks": 2,
        "temperal_downsample": [false, true, true],
        "z_dim": 16,
    })
}

/// The channel that is 1 everywhere, after three colours and their negatives.
const CONSTANT: i64 = 6;
/// Channels that carry something: colours, negatives, constant.
const CARRIED: i64 = 7;
/// Spread of the colour latents for colours in [-1, 1].
const COLOUR_GAIN: f32 = 1.6;
/// Undoes the two channel norms that the colours pass, encoder and decoder.
const ENCODER_GAIN: f32 = 0.4;
const DECODER_GAIN: f32 = 0.62;

/// The values of the tensor `name`.
pub(super) fn fill(seed: Seed, name: &str, shape: &[i64]) -> Sheet {
    let label = format!("vae/{name}");
    if name.ends_with("gamma") {
        return Sheet::noise(seed, &label, shape, 0.02).plus(&Sheet::constant(shape, 1.0));
    }
    if name.ends_with("bias") {
        return bias(name, shape);
    }
    let gain = if name.ends_with("conv2.weight") || name.ends_with("proj.weight") {
        0.25
    } else {
        0.7
    };
    let sheet = Sheet::layer(seed, &label, shape, gain);
    match name {
        "quant_conv.weight" | "post_quant_conv.weight" => statistics(name, shape),
        "encoder.conv_in.weight" => pixels_in(sheet),
        "encoder.conv_out.weight" => {
            // Nothing but colour, so that grey is encoded as zero.
            let mut sheet = sheet;
            sheet.fill_rows(0..3, 0.0);
            colours_out(sheet, ENCODER_GAIN * COLOUR_GAIN)
        }
        "decoder.conv_in.weight" => latents_in(sheet),
        "decoder.conv_out.weight" => {
            colours_out(Sheet::layer(seed, &label, shape, 0.12), DECODER_GAIN)
        }
        _ => inner(name, sheet),
    }
}

fn bias(name: &str, shape: &[i64]) -> Sheet {
    let mut sheet = Sheet::constant(shape, 0.0);
    let defaults = VaeConfig::default();
    match name {
        "encoder.conv_in.bias" | "decoder.conv_in.bias" => sheet.set(&[CONSTANT], 1.0),
        "quant_conv.bias" => {
            for (channel, &mean) in defaults.latents_mean.iter().enumerate() {
                sheet.set(&[channel as i64], mean as f32);
                sheet.set(&[(channel + defaults.latents_mean.len()) as i64], -6.0);
            }
        }
        "post_quant_conv.bias" => {
            let statistics = defaults.latents_mean.iter().zip(&defaults.latents_std);
            for (channel, (mean, std)) in statistics.enumerate() {
                sheet.set(&[channel as i64], (-mean / std) as f32);
            }
        }
        _ => {}
    }
    sheet
}

/// The 1x1x1 layers next to the latents apply and undo their mean and deviation.
fn statistics(name: &str, shape: &[i64]) -> Sheet {
    let mut sheet = Sheet::constant(shape, 0.0);
    let latents_std = VaeConfig::default().latents_std;
    for (channel, &std) in latents_std.iter().enumerate() {
        let factor = if name.starts_with("post") {
            1.0 / std
        } else {
            std
        };
        let channel = channel as i64;
        sheet.set(&[channel, channel, 0, 0, 0], factor as f32);
    }
    sheet
}

fn pixels_in(mut sheet: Sheet) -> Sheet {
    sheet.fill_rows(0..CARRIED, 0.0);
    for colour in 0..3 {
        sheet.set(&[colour, colour, 2, 1, 1], 1.0);
        sheet.set(&[colour + 3, colour, 2, 1, 1], -1.0);
    }
    sheet
}

fn latents_in(mut sheet: Sheet) -> Sheet {
    sheet.fill_rows(0..CARRIED, 0.0);
    for colour in 0..3 {
        sheet.set(&[colour, colour, 2, 1, 1], 1.0 / COLOUR_GAIN);
        sheet.set(&[colour + 3, colour, 2, 1, 1], -1.0 / COLOUR_GAIN);
    }
    sheet
}

/// The last layer: colours from their positive and negative copies after the activation.
fn colours_out(mut sheet: Sheet, gain: f32) -> Sheet {
    for colour in 0..3 {
        for carried in 0..CARRIED {
            for tap in 0..27 {
                sheet.set(&[colour, carried, tap / 9, tap / 3 % 3, tap % 3], 0.0);
            }
        }
        sheet.set(&[colour, colour, 2, 1, 1], gain);
        sheet.set(&[colour, colour + 3, 2, 1, 1], -gain);
    }
    sheet
}

/// Layers inside the encoder and the decoder.
fn inner(name: &str, mut sheet: Sheet) -> Sheet {
    let outputs = sheet.shape()[0];
    if name.ends_with("conv2.weight") || name.ends_with("proj.weight") {
        sheet.fill_rows(0..CARRIED, 0.0);
    } else if name.ends_with("conv_shortcut.weight") {
        sheet.fill_rows(0..CARRIED, 0.0);
        for channel in 0..CARRIED {
            sheet.set(&[channel, channel, 0, 0, 0], 1.0);
        }
    } else if name.ends_with("resample.1.weight") {
        sheet.fill_rows(0..CARRIED, 0.0);
        let kernel = if name.starts_with("encoder") {
            // The picture is padded on the right and below: the first four taps are one block.
            [[0.25, 0.25, 0.0], [0.25, 0.25, 0.0], [0.0; 3]]
        } else {
            [
                [0.0625, 0.125, 0.0625],
                [0.125, 0.25, 0.125],
                [0.0625, 0.125, 0.0625],
            ]
        };
        draw_kernel(&mut sheet, kernel);
    } else if name.ends_with("time_conv.weight") && name.starts_with("encoder") {
        sheet.fill_rows(0..CARRIED, 0.0);
        for channel in 0..CARRIED {
            sheet.set(&[channel, channel, 1, 0, 0], 0.5);
            sheet.set(&[channel, channel, 2, 0, 0], 0.5);
        }
    } else if name.ends_with("time_conv.weight") {
        // Both new frames repeat the old one, random channels included: no flicker.
        sheet = Sheet::constant(sheet.shape(), 0.0);
        for row in 0..outputs {
            sheet.set(&[row, row % (outputs / 2), 2, 0, 0], 1.0);
        }
    }
    sheet
}

fn draw_kernel(sheet: &mut Sheet, kernel: [[f32; 3]; 3]) {
    for channel in 0..CARRIED {
        for (row, line) in (0..).zip(kernel) {
            for (column, value) in (0..).zip(line) {
                sheet.set(&[channel, channel, row, column], value);
            }
        }
    }
}
