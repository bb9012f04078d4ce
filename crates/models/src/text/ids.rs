//! Token ids as encoders take them.

use tch::{Kind, Tensor};

use storyloom_nn::error::{ModelError, Result};

/// `input_ids` `[batch, rows]` of any integer kind as i64 on the device of `embedding`
/// `[vocabulary, width]`.
///
/// # Errors
/// Another number of axes, no token, and ids that the embedding has no row for.
pub(super) fn checked_ids(input_ids: &Tensor, embedding: &Tensor) -> Result<Tensor> {
    let size = input_ids.size();
    if size.len() != 2 || size.contains(&0) {
        let reason = format!("[batch, rows] is needed, found {size:?}");
        return Err(ModelError::input("input_ids", reason));
    }
    let ids = input_ids
        .f_to_kind(Kind::Int64)?
        .f_to_device(embedding.device())?;
    let (low, high) = (ids.f_min()?.int64_value(&[]), ids.f_max()?.int64_value(&[]));
    let vocabulary = embedding.size()[0];
    if low < 0 || high >= vocabulary {
        let reason = format!("ids {low} to {high}, vocabulary of {vocabulary}");
        return Err(ModelError::input("input_ids", reason));
    }
    Ok(ids)
}
