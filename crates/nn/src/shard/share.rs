//! The tokens of a sample that one of several ranks has.

use tch::Tensor;

use super::Peers;
use crate::error::Result;

/// A run of the tokens of a sample, of the same length on every rank; the last ranks are filled up with zeros.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenShare {
    /// Tokens on all ranks together.
    pub all: i64,
    /// The first of this rank.
    pub first: i64,
    /// Tokens of this rank, with those that fill it up.
    pub length: i64,
}

impl TokenShare {
    /// This rank's share of `all` tokens.
    pub fn of(all: i64, peers: &Peers) -> Self {
        let part = peers.part();
        let length = (all + part.of - 1) / part.of;
        Self {
            all,
            first: part.index * length,
            length,
        }
    }

    /// This rank's part of `axis`; behind the last token there are zeros.
    ///
    /// # Errors
    /// libtorch refuses.
    pub fn tokens(&self, tensor: &Tensor, axis: i64) -> Result<Tensor> {
        if self.length == self.all {
            return Ok(tensor.shallow_clone());
        }
        let first = self.first.min(self.all);
        let real = (self.all - first).min(self.length);
        let own = tensor.f_narrow(axis, first, real)?;
        if real == self.length {
            return Ok(own.f_contiguous()?);
        }
        let mut size = own.size();
        size[axis as usize] = self.length - real;
        let zeros = Tensor::f_zeros(&size, (tensor.kind(), tensor.device()))?;
        Ok(Tensor::f_cat(&[own, zeros], axis)?)
    }

    /// The same of one place per token of each sample.
    pub fn places(&self, places: &[i64]) -> Vec<i64> {
        if self.length == self.all {
            return places.to_vec();
        }
        let own = self.first..self.first + self.length;
        let sample = |sample: &[i64]| -> Vec<i64> {
            let of_token = |token: i64| sample.get(token as usize).copied().unwrap_or(0);
            own.clone().map(of_token).collect()
        };
        places.chunks(self.all as usize).flat_map(sample).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::on_ranks;
    use tch::{Device, Kind};

    /// Five tokens on four ranks: two, two, one and none; behind them are zeros.
    #[test]
    fn the_last_ranks_are_filled_up() {
        let shares = on_ranks(4, |group| {
            let share = TokenShare::of(5, &Peers::new(Some(group)));
            let tokens = Tensor::arange(5, (Kind::Float, Device::Cpu)) + 1.0;
            let own = share.tokens(&tokens.view([1, 5, 1]), 1).unwrap();
            let places = share.places(&[7, 8, 9, 10, 11]);
            (Vec::<f32>::try_from(own.view([-1])).unwrap(), places)
        });
        let expected = [
            (vec![1.0, 2.0], vec![7, 8]),
            (vec![3.0, 4.0], vec![9, 10]),
            (vec![5.0, 0.0], vec![11, 0]),
            (vec![0.0, 0.0], vec![0, 0]),
        ];
        assert_eq!(shares, expected);
    }
}
