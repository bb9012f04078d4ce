//! The size of a story's film, as far as it is known before its pictures are looked at.

use std::path::Path;

use storyloom_memory::arrays::{LATENTS, decode_array};
use storyloom_memory::pictures::picture_size;
use storyloom_memory::{MemoryBank, MemoryError};
use storyloom_story::{HostTensor, LatentGrid, Resolution};

use crate::config::{FilmShape, RunConfig};
use crate::error::RunError;
use crate::folder::run_folder::StoryFile;

/// The size that the story's film has by its records or, without any, by its file. `None` if neither
/// says it.
///
/// # Errors
/// The disk fails, or the first reference image that the story remembers is damaged.
pub(crate) fn film_size(
    bank: &MemoryBank,
    config: &RunConfig,
    file: &StoryFile,
) -> Result<Option<Resolution>, RunError> {
    let recorded = recorded_size(bank, config, file)?;
    let asked = [file.size, Some(config.video.resolution())];
    let film = |frames| film_of(frames, &asked, config.grid);
    Ok(recorded.map(film).or(file.size))
}

/// The size of the film of frames that were made in this size: the first of those that are asked for
/// whose frames these are, or all of them.
pub(crate) fn film_of(
    frames: Resolution,
    asked: &[Option<Resolution>],
    grid: LatentGrid,
) -> Resolution {
    let mut asked = asked.iter().copied().flatten();
    asked
        .find(|film| film.generated(grid) == frames)
        .unwrap_or(frames)
}

/// The size in which records of the story say that its frames were made, which counts more than any
/// setting: its other shots must have the same. `None` where there are none.
fn recorded_size(
    bank: &MemoryBank,
    config: &RunConfig,
    file: &StoryFile,
) -> Result<Option<Resolution>, RunError> {
    for (shot, _) in file.shots() {
        match bank.record(&file.id, shot) {
            Ok(Some(record)) => return Ok(Some(record.request().video.resolution())),
            // The program that comes to that shot makes it again.
            Ok(None) | Err(MemoryError::Damaged { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    if file.size.is_some() || config.pictures.shape != FilmShape::Picture {
        return Ok(None);
    }
    let references = bank.references(&file.id)?;
    let first = references.and_then(|record| record.kept().into_iter().next());
    let Some((picture, latents)) = first.and_then(|item| {
        let latents = item.arrays.get(LATENTS).cloned();
        item.picture.map(|picture| (picture, latents))
    }) else {
        return Ok(None);
    };
    let path = bank.story_folder(&file.id).join(&picture.file);
    let bytes = bank.storage().read(&path);
    let bytes = bytes.map_err(|error| MemoryError::damaged(&path, error.to_string()))?;
    let (width, height) = picture_size(&path, &bytes)?;
    let latents = latents.map(|blob| {
        let bytes = bank.blobs().get(&blob)?;
        decode_array(Path::new(&blob.blake3), &bytes)
    });
    let latents = latents.transpose()?;
    let picture = Resolution { width, height };
    let shaped = config.video.resolution().shaped_like(picture, config.grid);
    let is_in_shape = match latents.as_ref().map(HostTensor::shape) {
        Some(&[.., rows, columns]) => {
            is_grid(picture, columns, rows) && is_near(picture, shaped, config.grid)
        }
        _ => false,
    };
    // Earlier builds kept it as it was brought, and in shape the rule would drift.
    Ok(Some(if is_in_shape { picture } else { shaped }))
}

/// Whether two sizes are apart by no more than the rule drifts when it is applied to its own result.
fn is_near(one: Resolution, other: Resolution, grid: LatentGrid) -> bool {
    let drift = grid.token_side();
    one.width.abs_diff(other.width) <= drift && one.height.abs_diff(other.height) <= drift
}

/// Whether a picture is `columns` square patches wide and `rows` high.
fn is_grid(picture: Resolution, columns: usize, rows: usize) -> bool {
    let (width, height) = (picture.width as usize, picture.height as usize);
    let patch = width.checked_div(columns).unwrap_or(0);
    patch > 0 && (columns * patch, rows * patch) == (width, height)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size(width: u32, height: u32) -> Resolution {
        Resolution { width, height }
    }

    #[test]
    fn frames_belong_to_the_film_that_was_asked_for() {
        let frames = size(64, 48);
        let film = |asked: &[Option<Resolution>]| film_of(frames, asked, LatentGrid::WAN_2_1);
        assert_eq!(film(&[Some(size(60, 44)), None]), size(60, 44));
        assert_eq!(film(&[None, Some(size(62, 48))]), size(62, 48));
        // Nobody asks for this size any more.
        assert_eq!(film(&[Some(size(32, 32)), None]), frames);
    }

    #[test]
    fn patches_are_square_and_fill_the_picture() {
        assert!(is_grid(size(64, 48), 8, 6) && is_grid(size(64, 48), 4, 3));
        for (columns, rows) in [(8, 5), (7, 6), (0, 0), (128, 96), (4, 6)] {
            assert!(!is_grid(size(64, 48), columns, rows), "{columns} {rows}");
        }
    }
}
