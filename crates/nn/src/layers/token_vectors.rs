//! Vectors that belong to tokens: modulations of norms and gates.

use tch::{Device, Tensor};

use super::rows;
use crate::error::{ModelError, Result};

/// Which of a few vectors each token has, on the host and on a device.
#[derive(Debug)]
pub struct TokenIndex {
    rows: Vec<i64>,
    tensor: Tensor,
    count: i64,
}

impl TokenIndex {
    /// Of the row of each token, `[batch * tokens]`, all below `count`.
    pub fn new(rows: Vec<i64>, count: i64, device: Device) -> Result<Self> {
        if let Some(row) = rows.iter().find(|row| !(0..count).contains(row)) {
            let reason = format!("row {row} of {count}");
            return Err(ModelError::input("index of token vectors", reason));
        }
        let tensor = Tensor::f_from_slice(&rows)?.f_to_device(device)?;
        Ok(Self {
            rows,
            tensor,
            count,
        })
    }

    /// i64 `[batch * tokens]`.
    pub fn tensor(&self) -> &Tensor {
        &self.tensor
    }

    /// How many rows there must be.
    pub fn count(&self) -> i64 {
        self.count
    }
}

/// One vector of `width` for every sample or every token of `[batch, tokens, width]`.
#[derive(Debug)]
pub struct TokenVectors<'a> {
    /// The distinct vectors, f32 `[rows, width]`.
    pub rows: Tensor,
    /// Row of each token; `None`: sample `b` has row `b`.
    pub index: Option<&'a TokenIndex>,
}

impl TokenVectors<'_> {
    /// The vectors as a tensor that broadcasts over `[batch, tokens, width]`.
    pub fn broadcast(&self, batch: i64) -> Result<Tensor> {
        Ok(match self.index {
            None => self.rows.f_unsqueeze(1)?,
            Some(index) => {
                let width = self.rows.size()[1];
                self.rows
                    .f_index_select(0, &index.tensor)?
                    .f_view([batch, -1, width])?
            }
        })
    }

    /// The vector of each token, when the tensor is in host memory.
    pub(super) fn of_tokens<'b>(&'b self, tokens: usize) -> impl Fn(usize) -> &'b [f32] + Sync {
        let values = rows::values(&self.rows);
        let index = self.index.map(|index| index.rows.as_slice());
        let width = self.rows.size()[1] as usize;
        move |token| {
            let row = index.map_or(token / tokens, |index| index[token] as usize);
            &values[row * width..][..width]
        }
    }
}
