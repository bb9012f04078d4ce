//! Scaled dot-product attention and the split into heads.

use tch::Tensor;

use crate::error::Result;

/// `[batch, tokens, heads * dim]` to `[batch, heads, tokens, dim]`, a view.
pub fn split_heads(input: &Tensor, heads: i64) -> Result<Tensor> {
    let (batch, tokens, width) = input.size3()?;
    Ok(input
        .f_view([batch, tokens, heads, width / heads])?
        .f_transpose(1, 2)?)
}

/// `[batch, heads, tokens, dim]` to `[batch, tokens, heads * dim]`.
pub fn merge_heads(input: &Tensor) -> Result<Tensor> {
    let (batch, heads, tokens, dim) = input.size4()?;
    Ok(input
        .f_transpose(1, 2)?
        .f_reshape([batch, tokens, heads * dim])?)
}

/// `softmax(q kᵀ * scale + mask) v` over `[batch, heads, tokens, dim]`.
///
/// `scale` defaults to `1 / sqrt(dim)`; `mask` is added to the scores and broadcast.
pub fn attend(
    query: &Tensor,
    key: &Tensor,
    value: &Tensor,
    mask: Option<&Tensor>,
    scale: Option<f64>,
) -> Result<Tensor> {
    Ok(Tensor::f_scaled_dot_product_attention(
        query, key, value, mask, 0.0, false, scale, false,
    )?)
}
