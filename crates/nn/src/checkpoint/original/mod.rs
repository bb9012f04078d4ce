//! Files in the layouts of the original code, read in the layout of diffusers.
//!
//! Every tensor of such a file becomes one tensor of diffusers or several, each of which is some rows of it.
//! That is proved for each file when it is opened: nothing is left, nothing is missing, and every byte is
//! used once.

pub(super) mod autoencoder;
pub(crate) mod flux;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::ops::Range;

use super::entry::TensorEntry;
use super::keys::KeyMap;

/// Tensors by their names.
pub(super) type Tensors = BTreeMap<String, TensorEntry>;

/// A layout of files that is not the one of diffusers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Layout {
    /// A Wan transformer.
    WanTransformer,
    /// A FLUX transformer.
    FluxTransformer,
    /// FLUX's autoencoder.
    FluxAutoencoder,
}

/// What a tensor of an original file is in the layout of diffusers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Pieces {
    /// The tensor of this name.
    Whole(String),
    /// Tensors of these names, each with its number of rows, one below the other.
    Rows(Vec<(String, i64)>),
    /// The tensor of this name, whose second half of the rows comes first.
    Swapped(String),
    /// The matrix of this name, written as a convolution of one pixel.
    Matrix(String),
}

/// Why a file is not in the layout that it seems to be in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Misfit {
    /// Names, in the words of the file.
    Names {
        missing: Vec<String>,
        unknown: Vec<String>,
    },
    /// Anything else.
    Reason(String),
}

impl Layout {
    /// The layout of a file with these tensors; `None` for that of diffusers.
    pub(super) fn of(tensors: &Tensors) -> Option<Self> {
        let has = |name: &str| tensors.contains_key(name);
        if has("blocks.0.self_attn.q.weight") {
            Some(Self::WanTransformer)
        } else if has(flux::MARK) {
            Some(Self::FluxTransformer)
        } else if autoencoder::MARKS.into_iter().all(has) {
            Some(Self::FluxAutoencoder)
        } else {
            None
        }
    }

    fn plan(self, tensors: &Tensors) -> Result<BTreeMap<String, Pieces>, Misfit> {
        match self {
            Self::WanTransformer => {
                let renamed = |name: &String| {
                    let diffusers = KeyMap::WanTransformer.to_diffusers(name);
                    (name.clone(), Pieces::Whole(diffusers))
                };
                Ok(tensors.keys().map(renamed).collect())
            }
            Self::FluxTransformer => flux::plan(tensors),
            Self::FluxAutoencoder => Ok(autoencoder::plan(tensors)),
        }
    }

    /// The tensors, and the factors of float8 weights, by the names of diffusers.
    ///
    /// # Errors
    /// Names are missing or not known, two tensors are the same one, or a tensor cannot be cut as the
    /// layout says.
    pub(super) fn translate(
        self,
        mut tensors: Tensors,
        mut scales: Tensors,
    ) -> Result<(Tensors, Tensors), Misfit> {
        let (mut found, mut found_scales) = (Tensors::new(), Tensors::new());
        let mut missing = Vec::new();
        let before: Vec<TensorEntry> = tensors.values().cloned().collect();
        for (name, pieces) in self.plan(&tensors)? {
            let Some(entry) = tensors.remove(&name) else {
                missing.push(name);
                continue;
            };
            let scale = scales.remove(&name);
            for (piece, part) in pieces.cut(&entry).map_err(Misfit::Reason)? {
                if let Some(scale) = &scale {
                    let own = part.of_scale(scale);
                    found_scales.insert(piece.clone(), own);
                }
                if found.insert(piece.clone(), part.entry).is_some() {
                    let reason = format!("two tensors of the original layout are both {piece}");
                    return Err(Misfit::Reason(reason));
                }
            }
        }
        let unknown: Vec<String> = tensors.into_keys().collect();
        if !missing.is_empty() || !unknown.is_empty() {
            return Err(Misfit::Names { missing, unknown });
        }
        match covers_once(&before, found.values()) {
            true => Ok((found, found_scales)),
            false => Err(Misfit::Reason(
                "some rows of its tensors are used twice or not at all (a bug)".to_owned(),
            )),
        }
    }
}

/// A tensor of diffusers that was cut out of a tensor of a file.
struct Cut {
    entry: TensorEntry,
    /// The rows of the tensor that it is; `None` for halves that are swapped.
    rows: Option<Range<i64>>,
}

impl Cut {
    /// The factor of this tensor, if `scale` is that of the whole one: one number, or one for each row.
    fn of_scale(&self, scale: &TensorEntry) -> TensorEntry {
        let numbers: i64 = scale.shape.iter().product();
        match &self.rows {
            _ if numbers == 1 => scale.clone(),
            Some(rows) => scale.row_range(rows.start, rows.end - rows.start),
            None => scale.with_swapped_halves(),
        }
    }
}

impl Pieces {
    /// Cuts the tensor `entry` of a file.
    fn cut(self, entry: &TensorEntry) -> Result<Vec<(String, Cut)>, String> {
        let count = entry.row_count();
        let whole = |entry: TensorEntry| Cut {
            entry,
            rows: Some(0..count),
        };
        match self {
            Self::Whole(name) => Ok(vec![(name, whole(entry.clone()))]),
            Self::Swapped(name) if count % 2 == 0 => {
                let cut = Cut {
                    entry: entry.with_swapped_halves(),
                    rows: None,
                };
                Ok(vec![(name, cut)])
            }
            Self::Swapped(_) => {
                let name = &entry.name;
                Err(format!("{name} has {count} rows, which are not two halves"))
            }
            Self::Matrix(name) => {
                let [outputs, inputs, 1, 1] = *entry.shape.as_slice() else {
                    return Err(format!(
                        "{} has the shape {:?}, a convolution of one pixel is needed",
                        entry.name, entry.shape
                    ));
                };
                let mut matrix = entry.clone();
                matrix.shape = vec![outputs, inputs];
                Ok(vec![(name, whole(matrix))])
            }
            Self::Rows(parts) => {
                let mut first = 0;
                let cuts = parts.into_iter().map(|(name, rows)| {
                    let cut = Cut {
                        entry: entry.row_range(first, rows),
                        rows: Some(first..first + rows),
                    };
                    first += rows;
                    (name, cut)
                });
                Ok(cuts.collect())
            }
        }
    }
}

/// Whether the bytes of `after` are those of `before`, each of them once.
fn covers_once<'a>(
    before: &[TensorEntry],
    after: impl IntoIterator<Item = &'a TensorEntry>,
) -> bool {
    let before = joined(before);
    let after = joined(after);
    before.is_some() && before == after
}

/// Runs of bytes of each file that tensors cover; `None` if two tensors overlap.
fn joined<'a>(
    entries: impl IntoIterator<Item = &'a TensorEntry>,
) -> Option<Vec<(usize, Range<usize>)>> {
    let ranges = entries.into_iter().flat_map(|entry| {
        let ranges = entry.ranges.iter().filter(|range| !range.is_empty());
        ranges.map(|range| (entry.file, range.start, range.end))
    });
    let mut sorted: Vec<_> = ranges.collect();
    sorted.sort_unstable();
    let mut runs: Vec<(usize, Range<usize>)> = Vec::new();
    for (file, start, end) in sorted {
        match runs.last_mut() {
            Some((same, run)) if *same == file && start < run.end => return None,
            Some((same, run)) if *same == file && start == run.end => run.end = end,
            _ => runs.push((file, start..end)),
        }
    }
    Some(runs)
}

/// How many numbered parts the names that begin with `prefix` are of: one more than the highest number. A number
/// beyond `most`, or one that is not written plainly, counts for nothing, and its tensor is unknown.
pub(super) fn count_of(tensors: &Tensors, prefix: &str, most: u32) -> u32 {
    let numbers = tensors.keys().filter_map(|name| {
        let (text, _) = name.strip_prefix(prefix)?.split_once('.')?;
        number(text).filter(|number| *number < most)
    });
    numbers.max().map_or(0, |last| last + 1)
}

/// A whole number without sign and without zeros in front.
pub(crate) fn number(text: &str) -> Option<u32> {
    let number: u32 = text.parse().ok()?;
    (number.to_string() == text).then_some(number)
}
