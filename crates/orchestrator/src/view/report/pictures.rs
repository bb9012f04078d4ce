//! Small copies of a story's pictures. They are made once: names carry the content they show.

use std::io::Cursor;
use std::path::{Path, PathBuf};

use image::codecs::jpeg::JpegEncoder;
use image::imageops::{FilterType, thumbnail};
use image::{DynamicImage, ExtendedColorType, ImageBuffer, ImageReader, Rgb};
use serde::Serialize;
use storyloom_memory::pictures::decode_picture;
use storyloom_memory::{BlobRef, ShotRecord, Storage};
use storyloom_story::{Media, Resolution, RgbImage, ShotId, StoryId};

use super::files::write;
use crate::error::RunError;
use crate::folder::output::{PLACEHOLDER, read_frame};
use crate::folder::run_folder::RunFolder;

/// Largest width of pictures that stand for a shot, in pixels.
const WIDTH: u32 = 320;
/// Largest width of other keyframes, in pixels.
const KEYFRAME_WIDTH: u32 = 160;
/// Quality of the small copies, of 100.
const QUALITY: u8 = 82;
/// Height of a row of pictures of the overview, in pixels; shown at half of that.
const ROW_HEIGHT: u32 = 88;
/// Width of each of them, in pixels; what is wider or higher is cut.
const ROW_WIDTH: u32 = 141;
/// Pictures in a row of the overview.
const ROW_PICTURES: usize = 5;

/// A small copy, and the file it is a copy of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Picture {
    /// Path of the copy below `report/`.
    pub small: String,
    /// Path of the original below the story's folder.
    pub file: String,
}

/// Makes the small copies of one story.
pub(super) struct Pictures<'a> {
    folder: &'a RunFolder,
    story: &'a StoryId,
}

impl<'a> Pictures<'a> {
    pub(super) fn of(folder: &'a RunFolder, story: &'a StoryId) -> Self {
        Self { folder, story }
    }

    /// The copy of a PNG of the story's folder, or nothing if it cannot be read.
    ///
    /// The `first` of a shot is larger, since it also stands for the shot.
    pub(super) fn keyframe(&self, file: &str, content: &BlobRef, first: bool) -> Option<Picture> {
        let most = if first { WIDTH } else { KEYFRAME_WIDTH };
        let stem = Path::new(file).file_stem()?.to_str()?;
        let original = self.folder.story(self.story).join(file);
        let small = self.copy(stem, &content.blake3, most, || {
            let bytes = self.storage().read(&original)?;
            Ok(decode_picture(&original, &bytes)?)
        })?;
        Some(Picture {
            small,
            file: file.to_owned(),
        })
    }

    /// A shot's picture, or the middle frame of its video, for shots that kept no keyframe.
    pub(super) fn middle(&self, record: &ShotRecord, film: Resolution) -> Option<Picture> {
        let video = record.file();
        if record.request().method.profile().media == Media::Picture {
            return self.keyframe(&video.file, &video.content, true);
        }
        if video.content == BlobRef::of(PLACEHOLDER) {
            return None;
        }
        let name = format!("{}_middle", record.request().shot);
        let path = self.folder.story(self.story).join(&video.file);
        let small = self.copy(&name, &video.content.blake3, WIDTH, || {
            let middle = record.frame_count() / 2;
            read_frame(self.storage(), &path, middle, (film.width, film.height))
        })?;
        Some(Picture {
            small,
            file: video.file.clone(),
        })
    }

    /// Up to [`ROW_PICTURES`] of the given copies side by side, for the overview. Returns how many.
    pub(super) fn row(&self, small: &[&str]) -> usize {
        let chosen = spread(small.len(), ROW_PICTURES).map(|place| small[place]);
        let cells: Vec<image::RgbImage> = chosen.filter_map(|name| self.cell(name)).collect();
        let mut row = image::RgbImage::new(ROW_WIDTH * cells.len() as u32, ROW_HEIGHT);
        for (place, cell) in (0_i64..).zip(&cells) {
            image::imageops::replace(&mut row, cell, place * i64::from(ROW_WIDTH), 0);
        }
        if cells.is_empty() {
            return 0;
        }
        let path = self.place().join("row.jpg");
        match jpeg(&row, row.dimensions()).and_then(|bytes| write(self.storage(), &path, &bytes)) {
            Ok(_) => cells.len(),
            Err(error) => {
                tracing::warn!(%error, story = %self.story, "a row of pictures was not written");
                0
            }
        }
    }

    fn cell(&self, name: &str) -> Option<image::RgbImage> {
        let path = self.folder.root().join("report").join(name);
        let bytes = self.storage().read(&path).ok()?;
        let reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format();
        let picture = reader.ok()?.decode().ok()?.into_rgb8();
        let whole = DynamicImage::ImageRgb8(picture);
        let cell = whole.resize_to_fill(ROW_WIDTH, ROW_HEIGHT, FilterType::Triangle);
        Some(cell.into_rgb8())
    }

    fn storage(&self) -> &dyn Storage {
        self.folder.storage().as_ref()
    }

    fn place(&self) -> PathBuf {
        let pictures = self.folder.root().join("report/pictures");
        pictures.join(self.story.as_str())
    }

    /// Path below `report/` of the copy of what `read` gives, made if it is not there.
    fn copy(
        &self,
        stem: &str,
        content: &str,
        most: u32,
        read: impl FnOnce() -> Result<RgbImage, RunError>,
    ) -> Option<String> {
        let name = format!("{stem}.{}.jpg", content.get(..12).unwrap_or(content));
        let path = self.place().join(&name);
        if !self.storage().exists(&path) {
            let written = read()
                .and_then(|picture| shrink(&picture, most))
                .and_then(|bytes| Ok(self.storage().write_unsynced(&path, &bytes)?));
            if let Err(error) = written {
                tracing::warn!(%error, "a picture is left out of the report");
                return None;
            }
        }
        Some(format!("pictures/{}/{name}", self.story))
    }
}

/// `count` places spread evenly over `len`, or all if there are no more.
fn spread(len: usize, count: usize) -> impl Iterator<Item = usize> {
    let count = count.min(len);
    (0..count).map(move |place| place * len / count)
}

/// A picture of at most `most` pixels width, as a JPEG.
fn shrink(picture: &RgbImage, most: u32) -> Result<Vec<u8>, RunError> {
    let (width, height) = (picture.width(), picture.height());
    if width <= most {
        return jpeg(picture.data(), (width, height));
    }
    // The sizes agree, or it would not be a picture.
    let whole: Option<ImageBuffer<Rgb<u8>, &[u8]>> =
        ImageBuffer::from_raw(width, height, picture.data());
    let small = whole.map(|whole| thumbnail(&whole, most, (height * most / width).max(1)));
    let small = small.unwrap_or_default();
    jpeg(&small, small.dimensions())
}

fn jpeg(data: &[u8], (width, height): (u32, u32)) -> Result<Vec<u8>, RunError> {
    let mut bytes = Vec::new();
    JpegEncoder::new_with_quality(&mut bytes, QUALITY)
        .encode(data, width, height, ExtendedColorType::Rgb8)
        .map_err(|error| RunError::Setting(format!("a small picture: {error}")))?;
    Ok(bytes)
}

/// The picture that stands for a shot: its first keyframe, or the middle of its video, which has the
/// size of the `film`.
pub(super) fn poster(
    pictures: &Pictures,
    record: &ShotRecord,
    film: Resolution,
    kept: &[Option<Picture>],
) -> Option<Picture> {
    let first = kept.iter().flatten().next().cloned();
    first.or_else(|| pictures.middle(record, film))
}

/// How a keyframe is called where it cannot be seen.
pub(super) fn keyframe_name(shot: Option<ShotId>, place: usize) -> String {
    match shot {
        Some(shot) => format!("keyframe {} of shot {shot}", place + 1),
        None => format!("reference image {}", place + 1),
    }
}

#[cfg(test)]
mod tests {
    use image::GenericImageView;

    use super::*;

    #[test]
    fn a_row_shows_the_whole_story() {
        let places = |len| spread(len, ROW_PICTURES).collect::<Vec<_>>();
        assert!(places(0).is_empty());
        assert_eq!(places(3), [0, 1, 2]);
        assert_eq!(places(12), [0, 2, 4, 7, 9]);
    }

    #[test]
    fn large_pictures_shrink_and_small_ones_stay() {
        let size = |width: u32, height: u32| {
            let data = vec![7; (width * height * 3) as usize];
            let picture = RgbImage::new(width, height, data).unwrap();
            let bytes = shrink(&picture, WIDTH).unwrap();
            image::load_from_memory(&bytes).unwrap().dimensions()
        };
        assert_eq!(size(832, 480), (320, 184));
        assert_eq!(size(64, 48), (64, 48));
        assert_eq!(size(4000, 1), (320, 1));
    }
}
