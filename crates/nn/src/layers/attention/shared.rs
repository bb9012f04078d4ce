//! Attention of tokens that lie on several ranks (Ulysses): each rank gets all tokens of some heads for its time.

use tch::Tensor;

use super::attend;
use crate::error::Result;
use crate::layers::parts::{Part, timed};
use crate::shard::Peers;

/// Which of the tokens of all ranks, one rank's behind another's, are there: others only fill ranks up, and nobody
/// attends to them.
#[derive(Debug, Clone, Copy)]
pub enum RealTokens<'a> {
    /// All of them.
    All,
    /// This number of them, from the first on.
    First(i64),
    /// Those with these numbers, i64, on the device.
    At(&'a Tensor),
}

impl RealTokens<'_> {
    /// These of `[batch, heads, tokens, dim]`.
    fn of(&self, tokens: Tensor) -> Result<Tensor> {
        Ok(match self {
            Self::All => tokens,
            Self::First(count) => tokens.f_narrow(2, 0, *count)?,
            Self::At(index) => tokens.f_index_select(2, index)?,
        })
    }
}

/// Attention of all tokens to those that are `real`; queries, keys and values are of this rank's tokens,
/// `[batch, heads, tokens, dim]`, as many on every rank that `sequence` has, and so is the result. All of them call
/// it; they exchange tokens for heads and back. A rank that is alone attends to what it is given.
pub fn attend_among(
    sequence: &Peers,
    [query, key, value]: [Tensor; 3],
    real: RealTokens,
) -> Result<Tensor> {
    let ranks = sequence.part().of;
    let attend_all = |query: &Tensor, key: &Tensor, value: &Tensor| {
        timed(Part::SelfAttention, || {
            attend(query, key, value, None, None)
        })
    };
    if ranks == 1 {
        return attend_all(&query, &key, &value);
    }
    // What travels is f32.
    let kind = query.kind();
    let (batch, heads, own, dim) = query.size4()?;
    let (some, all) = (heads / ranks, own * ranks);
    let packed = Tensor::f_stack(&[query, key, value], 0)?
        .f_view([3, batch, ranks, some, own, dim])?
        .f_permute([2, 0, 1, 3, 4, 5])?;
    let received = sequence.trade(&packed)?.f_to_kind(kind)?;
    let received = received
        .f_permute([1, 2, 3, 0, 4, 5])?
        .f_reshape([3, batch, some, all, dim])?;
    let of = |which: i64| received.f_select(0, which);
    let (key, value) = (real.of(of(1)?)?, real.of(of(2)?)?);
    let attended = attend_all(&of(0)?, &key, &value)?;
    let packed = attended
        .f_view([batch, some, ranks, own, dim])?
        .f_permute([2, 0, 1, 3, 4])?;
    let received = sequence.trade(&packed)?.f_to_kind(kind)?;
    Ok(received
        .f_permute([1, 0, 2, 3, 4])?
        .f_reshape([batch, heads, own, dim])?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{cosines, on_ranks, relative_error};
    use tch::Device;

    /// Seven tokens on two ranks, four on each: the one that fills up is the last, or the first of the second rank.
    #[test]
    fn ranks_attend_to_the_tokens_that_are_there() {
        let heads = || [0.1, 0.5, 0.9].map(|phase| cosines(&[2, 4, 7, 8], phase));
        let [query, key, value] = heads();
        let expected = attend(&query, &key, &value, None, None).unwrap();
        for [filled, skipped] in on_ranks(2, |group| {
            let peers = Peers::new(Some(group));
            let rank = peers.part().index;
            let fill = |tensor: &Tensor| tensor.narrow(2, 0, 1) * 100.0;
            let last = |tensor: Tensor| {
                let all = Tensor::cat(&[&tensor, &fill(&tensor)], 2);
                all.narrow(2, rank * 4, 4)
            };
            let middle = |tensor: Tensor| {
                let (before, behind) = (tensor.narrow(2, 0, 4), tensor.narrow(2, 4, 3));
                let all = Tensor::cat(&[before, fill(&tensor), behind], 2);
                all.narrow(2, rank * 4, 4)
            };
            let real = Tensor::from_slice(&[0_i64, 1, 2, 3, 5, 6, 7]).to_device(Device::Cpu);
            let of_last = attend_among(&peers, heads().map(last), RealTokens::First(7));
            let of_middle = attend_among(&peers, heads().map(middle), RealTokens::At(&real));
            let all = |own: Result<Tensor>| peers.gather(&own.unwrap(), 2).unwrap();
            let (of_last, of_middle) = (all(of_last), all(of_middle));
            [of_last.narrow(2, 0, 7), of_middle.index_select(2, &real)]
        }) {
            assert!(relative_error(&filled, &expected) < 1e-6);
            assert!(relative_error(&skipped, &expected) < 1e-6);
        }
    }
}
