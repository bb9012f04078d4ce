//! Where the tensors of a checkpoint lie.

use tch::Kind;

use crate::shard::Part;

/// Where one tensor lies.
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
    /// Byte range inside the file.
    pub(super) range: std::ops::Range<usize>,
}

impl TensorEntry {
    /// Size of the tensor in the file, in bytes.
    pub fn bytes(&self) -> usize {
        self.range.len()
    }

    /// The entry of one part of the first axis.
    pub(super) fn rows(&self, part: Part) -> Self {
        let mut entry = self.clone();
        let (first, share) = part.range(self.shape[0]);
        let row = self.range.len() / self.shape[0].max(1) as usize;
        let start = self.range.start + first as usize * row;
        entry.range = start..start + share as usize * row;
        entry.shape[0] = share;
        entry
    }
}
