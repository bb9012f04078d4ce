//! Where the tensors of a checkpoint lie.

use std::ops::Range;

use tch::Kind;

use crate::shard::Part;

/// Where one tensor lies.
///
/// A tensor of a network is often only some rows of a tensor in the file (fused projections), and once its
/// halves are the other way round. Rows are the slowest axis, so both are byte ranges of the file: nothing is
/// copied before it is asked for.
#[derive(Debug, Clone)]
pub struct TensorEntry {
    /// Index of the file inside the checkpoint.
    pub(super) file: usize,
    /// Name of the tensor in the file.
    pub name: String,
    /// Element type in the file.
    pub kind: Kind,
    /// Axis lengths, slowest first.
    pub shape: Vec<i64>,
    /// Byte ranges inside the file, in the order of the rows. Most tensors are one.
    pub(super) ranges: Vec<Range<usize>>,
}

impl TensorEntry {
    /// A tensor whose bytes are one range of its file.
    pub(super) fn new(
        file: usize,
        name: impl Into<String>,
        kind: Kind,
        shape: Vec<i64>,
        range: Range<usize>,
    ) -> Self {
        Self {
            file,
            name: name.into(),
            kind,
            shape,
            ranges: std::iter::once(range).collect(),
        }
    }

    /// Size of the tensor in the file, in bytes.
    pub fn bytes(&self) -> usize {
        self.ranges.iter().map(ExactSizeIterator::len).sum()
    }

    /// Length of the first axis; 1 for a single number.
    pub(super) fn row_count(&self) -> i64 {
        self.shape.first().copied().unwrap_or(1)
    }

    /// The only range of the tensor; `None` if there are several.
    pub(super) fn single_range(&self) -> Option<&Range<usize>> {
        match self.ranges.as_slice() {
            [range] => Some(range),
            _ => None,
        }
    }

    /// The byte ranges of the file that hold the tensor's bytes `wanted`, in their order.
    pub(super) fn places(&self, wanted: Range<usize>) -> impl Iterator<Item = Range<usize>> + '_ {
        let mut passed = 0;
        self.ranges.iter().filter_map(move |range| {
            let inside = passed..passed + range.len();
            passed = inside.end;
            let first = wanted.start.max(inside.start);
            let end = wanted.end.min(inside.end);
            let shift = |at: usize| range.start + at - inside.start;
            (first < end).then(|| shift(first)..shift(end))
        })
    }

    /// The entry of one part of the first axis.
    pub(super) fn rows(&self, part: Part) -> Self {
        let (first, count) = part.range(self.row_count());
        self.row_range(first, count)
    }

    /// The entry of the rows `first..first + count`, which it has.
    pub(super) fn row_range(&self, first: i64, count: i64) -> Self {
        let row = self.bytes() / self.row_count().max(1) as usize;
        let wanted = first as usize * row..(first + count) as usize * row;
        let mut entry = Self {
            ranges: self.places(wanted).collect(),
            ..self.clone()
        };
        if let Some(rows) = entry.shape.first_mut() {
            *rows = count;
        }
        entry
    }

    /// The entry in which the second half of the rows comes first.
    pub(super) fn with_swapped_halves(&self) -> Self {
        let rows = self.row_count();
        let [mut upper, lower] = [
            self.row_range(rows / 2, rows - rows / 2),
            self.row_range(0, rows / 2),
        ];
        upper.ranges.extend(lower.ranges);
        upper.shape.clone_from(&self.shape);
        upper
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entry(rows: i64, columns: i64) -> TensorEntry {
        let bytes = (rows * columns * 2) as usize;
        TensorEntry::new(
            0,
            "a",
            Kind::BFloat16,
            vec![rows, columns],
            100..100 + bytes,
        )
    }

    /// The bytes of the file that an entry consists of, in order.
    fn bytes(entry: &TensorEntry) -> Vec<usize> {
        entry.ranges.iter().cloned().flatten().collect()
    }

    #[test]
    fn rows_are_byte_ranges() {
        let whole = entry(4, 3);
        let middle = whole.row_range(1, 2);
        assert_eq!(middle.shape, [2, 3]);
        assert_eq!(middle.single_range(), Some(&(106..118)));
        let part = whole.rows(Part { index: 1, of: 2 });
        assert_eq!((part.bytes(), part.single_range()), (12, Some(&(112..124))));
    }

    #[test]
    fn swapped_halves_are_two_ranges() {
        let swapped = entry(4, 3).with_swapped_halves();
        assert_eq!(swapped.ranges, [112..124, 100..112]);
        assert_eq!(
            (swapped.shape.as_slice(), swapped.bytes()),
            (&[4, 3][..], 24)
        );
        assert_eq!(swapped.single_range(), None);
        assert_eq!(
            swapped.places(6..18).collect::<Vec<_>>(),
            [118..124, 100..106]
        );
    }

    proptest! {
        /// Rows of rows, and rows of swapped halves, are those that the bytes themselves show.
        #[test]
        fn cutting_is_cutting_the_bytes(half in 1_i64..6, columns in 0_i64..4, cut in 0_i64..12, count in 0_i64..12) {
            let (rows, row) = (half * 2, columns as usize * 2);
            let cut = cut.min(rows);
            let count = count.min(rows - cut);
            let whole = entry(rows, columns);
            let swapped = whole.with_swapped_halves();
            let middle = half as usize * row;
            let all = bytes(&whole);
            prop_assert_eq!(bytes(&swapped), [&all[middle..], &all[..middle]].concat());
            for entry in [whole, swapped] {
                let wanted = cut as usize * row..(cut + count) as usize * row;
                let found = entry.row_range(cut, count);
                prop_assert_eq!(bytes(&found), &bytes(&entry)[wanted]);
                prop_assert_eq!(found.shape, vec![count, columns]);
            }
        }
    }
}
