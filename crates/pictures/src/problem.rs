//! Why a picture is not used.

use crate::input_folder::FileProblem;

/// Why a picture is not used. Each message fits after "cannot be used: ".
#[derive(Debug, thiserror::Error)]
pub enum PictureProblem {
    /// Its file is not read.
    #[error(transparent)]
    File(#[from] FileProblem),
    /// No format that is read, by its first bytes.
    #[error("it is no picture that can be read: {what}; use PNG, JPEG, WebP, AVIF or TIFF")]
    Format {
        /// What it seems to be.
        what: &'static str,
    },
    /// The header promises too large or too small a picture.
    #[error(
        "it says it has {width}x{height} pixels; sides must be {least} to {longest} and at most {pixels} pixels in all"
    )]
    Size {
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
        /// Shortest side.
        least: u32,
        /// Longest side.
        longest: u32,
        /// Most pixels.
        pixels: u64,
    },
    /// One side is many times the other.
    #[error(
        "it has {width}x{height} pixels: one side is more than {most} times the other; cut out what is to be seen"
    )]
    Aspect {
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
        /// The bound.
        most: u32,
    },
    /// A kind of picture that its format allows and nobody here reads.
    #[error("it is {0}, which is not read; save it as a plain PNG or JPEG")]
    Kind(String),
    /// The file ends before its picture does.
    #[error("the file is cut off: {0}; copy or download it again")]
    Cut(&'static str),
    /// The bytes are no picture.
    #[error("it cannot be decoded: {0}")]
    Damaged(String),
    /// The digest is another one than the brief says.
    #[error("its SHA-256 is {found}, but the brief says {wanted}")]
    Digest {
        /// That of the file.
        found: String,
        /// That of the brief.
        wanted: String,
    },
}

impl PictureProblem {
    /// What a library said of bytes that it could not decode.
    pub(crate) fn damaged(error: impl std::fmt::Display) -> Self {
        Self::Damaged(error.to_string())
    }
}
