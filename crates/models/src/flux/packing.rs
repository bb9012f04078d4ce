//! Latents as tokens of 2 x 2 places (specification `flux`, 1.8).

use storyloom_nn::error::{ModelError, Result};
use tch::Tensor;

/// `[batch, channels, height, width]` to tokens `[batch, height / 2 * width / 2, 4 * channels]`, row by row; the
/// channels of a token are those of the latent, slowest, then row and column of the place.
///
/// # Errors
/// A side is odd or nothing.
pub fn pack(latents: &Tensor) -> Result<Tensor> {
    let size = latents.size();
    let &[batch, channels, height, width] = size.as_slice() else {
        let reason = format!("[batch, channels, height, width] is needed, found {size:?}");
        return Err(ModelError::input("latents", reason));
    };
    if height < 2 || width < 2 || height % 2 != 0 || width % 2 != 0 {
        let reason = format!("{height} x {width} is not made of whole tokens of 2 x 2");
        return Err(ModelError::input("latents", reason));
    }
    Ok(latents
        .f_reshape([batch, channels, height / 2, 2, width / 2, 2])?
        .f_permute([0, 2, 4, 1, 3, 5])?
        .f_reshape([batch, height / 2 * (width / 2), 4 * channels])?)
}

/// Tokens `[batch, rows * columns, 4 * channels]` to `[batch, channels, 2 * rows, 2 * columns]`: [`pack`] backwards.
///
/// # Errors
/// The tokens are not those of such a grid.
pub fn unpack(tokens: &Tensor, [rows, columns]: [i64; 2]) -> Result<Tensor> {
    let size = tokens.size();
    let fits =
        matches!(*size.as_slice(), [_, count, width] if count == rows * columns && width % 4 == 0);
    if !fits {
        let reason = format!("[batch, {rows} * {columns}, 4 * channels] is needed, found {size:?}");
        return Err(ModelError::input("tokens", reason));
    }
    let (batch, channels) = (size[0], size[2] / 4);
    Ok(tokens
        .f_reshape([batch, rows, columns, channels, 2, 2])?
        .f_permute([0, 3, 1, 4, 2, 5])?
        .f_reshape([batch, channels, 2 * rows, 2 * columns])?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use storyloom_nn::testing::vectors::{assert_begins, flux_vector};
    use tch::{Device, Kind};

    #[test]
    fn tokens_hold_channels_then_rows_then_columns() {
        let latent = Tensor::arange(48, (Kind::Float, Device::Cpu)).view([1, 2, 4, 6]);
        let tokens = pack(&latent).unwrap();
        assert_eq!(tokens.size(), [1, 6, 8]);
        assert_begins("tokens", &tokens, &flux_vector("packing/tokens"), 0.0);
        let both = Tensor::cat(&[&latent, &(&latent + 50.0)], 0);
        assert_eq!(unpack(&pack(&both).unwrap(), [2, 3]).unwrap(), both);
    }

    #[test]
    fn odd_sides_and_other_grids_are_errors() {
        let zeros = |size: &[i64]| Tensor::zeros(size, (Kind::Float, Device::Cpu));
        for size in [[1, 2, 3, 6], [1, 2, 4, 5], [1, 2, 0, 4]] {
            assert!(pack(&zeros(&size)).is_err(), "{size:?}");
        }
        assert!(pack(&zeros(&[2, 4, 6])).is_err());
        assert!(unpack(&zeros(&[1, 6, 8]), [2, 2]).is_err());
        assert!(unpack(&zeros(&[1, 6, 7]), [2, 3]).is_err());
    }
}
