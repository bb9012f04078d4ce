//! Keys and values of the tokens that a model has seen.

use storyloom_nn::error::{ModelError, Result};
use tch::{Device, Kind, Tensor};

use super::config::LanguageConfig;

/// Keys and values of several sequences, each in a slot of its own.
///
/// A forward writes behind what a slot holds and moves its length; [`truncate`](Self::truncate)
/// takes tokens back. Memory grows with the longest sequence, in steps.
#[derive(Debug)]
pub struct KvCache {
    pub(super) blocks: Vec<BlockCache>,
    lengths: Vec<i64>,
    capacity: i64,
}

/// Keys and values of one block, `[slots, key heads, capacity, channels]`.
#[derive(Debug)]
pub(super) struct BlockCache {
    pub(super) keys: Tensor,
    pub(super) values: Tensor,
}

/// Slots of a cache, one for each sequence of a forward.
#[derive(Debug)]
pub struct CacheSlots<'a> {
    /// The cache.
    pub cache: &'a mut KvCache,
    /// Slot of each sequence; no slot twice.
    pub slots: &'a [usize],
}

/// Tokens by which the capacity grows at least.
const STEP: i64 = 128;

impl KvCache {
    /// An empty cache of `slots` sequences for `key_heads` heads of this rank.
    pub(super) fn new(
        config: &LanguageConfig,
        key_heads: i64,
        slots: usize,
        (kind, device): (Kind, Device),
    ) -> Result<Self> {
        let shape = [slots as i64, key_heads, 0, config.head_dim];
        let empty = || Ok::<_, ModelError>(Tensor::f_empty(shape, (kind, device))?);
        let block = |_| {
            Ok(BlockCache {
                keys: empty()?,
                values: empty()?,
            })
        };
        Ok(Self {
            blocks: (0..config.blocks).map(block).collect::<Result<_>>()?,
            lengths: vec![0; slots],
            capacity: 0,
        })
    }

    /// Sequences that there is room for.
    pub fn slots(&self) -> usize {
        self.lengths.len()
    }

    /// Tokens in a slot.
    pub fn length(&self, slot: usize) -> i64 {
        self.lengths[slot]
    }

    /// Forgets all tokens of a slot from number `length` on.
    pub fn truncate(&mut self, slot: usize, length: i64) {
        self.lengths[slot] = self.lengths[slot].min(length.max(0));
    }

    /// Makes room for `tokens` in every slot.
    pub(super) fn reserve(&mut self, tokens: i64) -> Result<()> {
        if tokens <= self.capacity {
            return Ok(());
        }
        let wanted = tokens.max(self.capacity + self.capacity / 2);
        let capacity = (wanted + STEP - 1) / STEP * STEP;
        let used = self.lengths.iter().copied().max().unwrap_or(0);
        for block in &mut self.blocks {
            for tensor in [&mut block.keys, &mut block.values] {
                let (slots, heads, _, dim) = tensor.size4()?;
                let larger = Tensor::f_zeros(
                    [slots, heads, capacity, dim],
                    (tensor.kind(), tensor.device()),
                )?;
                larger
                    .f_narrow(2, 0, used)?
                    .f_copy_(&tensor.f_narrow(2, 0, used)?)?;
                *tensor = larger;
            }
        }
        self.capacity = capacity;
        Ok(())
    }

    /// Refuses slots that are not there or named twice.
    pub(super) fn check(&self, slots: &[usize], batch: i64) -> Result<()> {
        let distinct: std::collections::BTreeSet<_> = slots.iter().collect();
        let fits = slots.iter().all(|&slot| slot < self.lengths.len());
        if slots.len() as i64 == batch && distinct.len() == slots.len() && fits {
            return Ok(());
        }
        let reason = format!(
            "slots {slots:?} of {} for {batch} sequences",
            self.lengths.len()
        );
        Err(ModelError::input("cache", reason))
    }

    /// Counts tokens that all blocks have written.
    pub(super) fn advance(&mut self, slots: &[usize], tokens: i64) {
        for &slot in slots {
            self.lengths[slot] += tokens;
        }
    }

    /// Writes keys and values `[batch, key heads, tokens, channels]` of a block behind what the
    /// slots hold. The lengths stay: every block writes at the same place.
    pub(super) fn write(
        &self,
        block: usize,
        slots: &[usize],
        keys: &Tensor,
        values: &Tensor,
    ) -> Result<()> {
        let tokens = keys.size4()?.2;
        for (index, &slot) in slots.iter().enumerate() {
            let place = |tensor: &Tensor, new: &Tensor| -> Result<()> {
                let place = tensor.f_select(0, slot as i64)?;
                let mut place = place.f_narrow(1, self.lengths[slot], tokens)?;
                place.f_copy_(&new.f_select(0, index as i64)?)?;
                Ok(())
            };
            place(&self.blocks[block].keys, keys)?;
            place(&self.blocks[block].values, values)?;
        }
        Ok(())
    }

    /// Keys and values of the first `tokens` places of the slots, `[batch, key heads, tokens,
    /// channels]`.
    pub(super) fn read(&self, block: usize, slots: &[usize], tokens: i64) -> Result<[Tensor; 2]> {
        let BlockCache { keys, values } = &self.blocks[block];
        let in_order = slots.windows(2).all(|pair| pair[1] == pair[0] + 1);
        let part = |tensor: &Tensor| -> Result<Tensor> {
            let rows = match (in_order, slots.first()) {
                (true, Some(&first)) => tensor.f_narrow(0, first as i64, slots.len() as i64)?,
                _ => {
                    let index: Vec<i64> = slots.iter().map(|&slot| slot as i64).collect();
                    let index = Tensor::f_from_slice(&index)?.f_to_device(tensor.device())?;
                    tensor.f_index_select(0, &index)?
                }
            };
            Ok(rows.f_narrow(2, 0, tokens)?)
        };
        Ok([part(keys)?, part(values)?])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache(slots: usize) -> KvCache {
        let empty = || Tensor::zeros([slots as i64, 1, 0, 2], (Kind::Float, Device::Cpu));
        KvCache {
            blocks: vec![BlockCache {
                keys: empty(),
                values: empty(),
            }],
            lengths: vec![0; slots],
            capacity: 0,
        }
    }

    /// `[sequences, 1, tokens, 2]`, every number another, from `first` on.
    fn numbers(sequences: i64, tokens: i64, first: i64) -> Tensor {
        let all = Tensor::arange_start(
            first,
            first + sequences * tokens * 2,
            (Kind::Float, Device::Cpu),
        );
        all.view([sequences, 1, tokens, 2])
    }

    fn write(cache: &mut KvCache, slots: &[usize], keys: &Tensor) {
        let tokens = keys.size()[2];
        let longest = slots.iter().map(|&slot| cache.length(slot)).max().unwrap();
        cache.reserve(longest + tokens).unwrap();
        cache.write(0, slots, keys, &(keys * -1)).unwrap();
        cache.advance(slots, tokens);
    }

    /// Stories of a batch are apart from each other, also when the cache grows for one of them.
    #[test]
    fn a_slot_keeps_its_tokens_while_others_grow() {
        let mut cache = cache(3);
        let first = numbers(2, 3, 0);
        write(&mut cache, &[2, 0], &first);
        let long = numbers(1, STEP, 100);
        write(&mut cache, &[1], &long);
        write(&mut cache, &[0], &numbers(1, STEP, 500));
        assert_eq!(
            [0, 1, 2].map(|slot| cache.length(slot)),
            [3 + STEP, STEP, 3]
        );
        // In the order in which they are asked for, and next to each other.
        let [keys, values] = cache.read(0, &[2, 0], 3).unwrap();
        assert_eq!(keys, first);
        assert_eq!(values, &first * -1);
        let [keys, _] = cache.read(0, &[0, 1], 3).unwrap();
        assert_eq!(keys.narrow(0, 1, 1), long.narrow(2, 0, 3));
    }

    #[test]
    fn tokens_that_are_taken_back_are_written_over() {
        let mut cache = cache(1);
        write(&mut cache, &[0], &numbers(1, 4, 0));
        cache.truncate(0, 2);
        write(&mut cache, &[0], &numbers(1, 1, 90));
        assert_eq!(cache.length(0), 3);
        let [keys, _] = cache.read(0, &[0], 3).unwrap();
        let kept = Tensor::cat(&[numbers(1, 2, 0), numbers(1, 1, 90)], 2);
        assert_eq!(keys, kept);
        cache.truncate(0, 9);
        assert_eq!(cache.length(0), 3, "nothing comes back");
    }

    #[test]
    fn slots_that_are_not_there_or_named_twice_are_refused() {
        let cache = cache(2);
        assert!(cache.check(&[1, 0], 2).is_ok());
        for (slots, batch) in [(&[0, 2][..], 2), (&[0, 0], 2), (&[0], 2)] {
            let said = cache.check(slots, batch).unwrap_err().to_string();
            assert!(said.contains("of 2 for 2 sequences"), "{said}");
        }
    }
}
