//! The files that stories are begun with: pictures, or a ready-made first shot. They are opened when their story
//! is taken, and then known by content: a file that was replaced behind the same path is found out, also after the story is done.

use std::fmt::Display;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use storyloom_memory::MemoryError;
use storyloom_memory::pictures::decode_picture;
use storyloom_pictures::{FileProblem, Limits, PictureFolder, PictureProblem, fitted};
use storyloom_story::{Clip, ErrorClass, Resolution, RgbImage};

use crate::config::{FilmShape, RunConfig};
use crate::error::RunError;
use crate::folder::input_file::OpenedInput;
use crate::folder::output::{NoClip, read_clip};
use crate::folder::plans::sound_plan;
use crate::folder::records::references;
use crate::folder::run_folder::{RunFolder, StoryFile};

pub use crate::folder::input_file::InputFile;

/// The path of such a file, for messages.
fn shown(config: &RunConfig, name: &str) -> PathBuf {
    config.input_folder.path().join(name)
}

/// The pictures that a story's line names, as its user sees them, and what its files are.
///
/// # Errors
/// [`RunError::Input`] for one that cannot be used, or that is not the one that its brief names.
pub(crate) fn open_pictures(
    config: &RunConfig,
    file: &StoryFile,
) -> Result<(Vec<image::RgbImage>, Vec<InputFile>), RunError> {
    let folder = PictureFolder::new(config.input_folder.clone(), Limits::default());
    let ground = file.ground.unwrap_or(config.pictures.ground);
    let read = |name: &String| {
        let wrong = |problem: PictureProblem| RunError::Input {
            path: shown(config, name),
            reason: format!("the reference image cannot be used: {problem}"),
        };
        let input =
            InputFile::note(&config.input_folder, name).map_err(|problem| wrong(problem.into()))?;
        let picture = folder.load(name, Some(&input.sha256), ground);
        Ok((picture.map_err(wrong)?.pixels, input))
    };
    let names = file.reference_images.iter();
    let read: Vec<_> = names.map(read).collect::<Result<_, RunError>>()?;
    let (pictures, mut inputs): (Vec<_>, Vec<_>) = read.into_iter().unzip();
    check_promise(config, file, &inputs)?;
    if let Some(name) = &file.first_shot {
        let noted = InputFile::note(&config.input_folder, name);
        inputs.push(noted.map_err(|problem| no_first_shot(config, file, name, &problem))?);
    }
    Ok((pictures, inputs))
}

/// The picture of a product must be the one that its brief names by digest, if it does.
fn check_promise(
    config: &RunConfig,
    file: &StoryFile,
    inputs: &[InputFile],
) -> Result<(), RunError> {
    let brief = file.brief.as_ref();
    let wanted = brief.and_then(|brief| brief.product_image_sha256.as_ref());
    let found = inputs.first().map(|input| &input.sha256);
    match (wanted, found, file.reference_images.first()) {
        (Some(wanted), Some(found), Some(name)) if wanted != found => Err(RunError::Input {
            path: shown(config, name),
            reason: format!("its SHA-256 is {found}, but the brief says {wanted}"),
        }),
        _ => Ok(()),
    }
}

/// The size of a film whose line does not say it, and whose first picture is `first`.
pub(crate) fn own_size(config: &RunConfig, first: Option<&image::RgbImage>) -> Resolution {
    let size = config.video.resolution();
    match first {
        Some(first) if config.pictures.shape == FilmShape::Picture => {
            let (width, height) = first.dimensions();
            size.shaped_like(Resolution { width, height }, config.grid)
        }
        _ => size,
    }
}

/// The pictures as frames of `size` pixels, the generated size, filtered once: the memory holds them as
/// it holds frames.
pub(crate) fn in_shape(
    config: &RunConfig,
    file: &StoryFile,
    references: &[image::RgbImage],
    size: Resolution,
) -> Result<Vec<RgbImage>, RunError> {
    let fit = file.fit.unwrap_or(config.pictures.fit);
    let ground = file.ground.unwrap_or(config.pictures.ground);
    let names = file.reference_images.iter();
    let shaped = names.zip(references).map(|(name, picture)| {
        let picture = fitted(picture, size, fit, ground);
        let (width, height) = picture.dimensions();
        RgbImage::new(width, height, picture.into_raw())
            .map_err(|error| MemoryError::damaged(name, error.to_string()).into())
    });
    shaped.collect()
}

/// Why a ready-made first shot is not used.
fn no_first_shot(
    config: &RunConfig,
    file: &StoryFile,
    name: &str,
    problem: &dyn Display,
) -> RunError {
    let story = &file.id;
    RunError::Input {
        path: shown(config, name),
        reason: format!("the ready-made first shot of the story {story} cannot be used: {problem}"),
    }
}

/// The frames of a story's ready-made first shot, if it has one: of a film of `film` pixels, at the size at
/// which its frames are generated. The file is the one of which `inputs` takes note.
///
/// # Errors
/// [`RunError::Input`] for a file that is no video of the story's size and length, or that has changed.
pub(crate) fn first_shot(
    config: &RunConfig,
    file: &StoryFile,
    inputs: &[InputFile],
    film: Resolution,
) -> Result<Option<Clip>, RunError> {
    let (Some(name), Some(noted)) = (&file.first_shot, inputs.last()) else {
        return Ok(None);
    };
    let wrong = |problem: &dyn Display| no_first_shot(config, file, name, problem);
    let bytes = config.input_folder.read(name, Limits::default().bytes);
    let bytes = bytes.map_err(|problem| wrong(&problem))?;
    if format!("{:x}", Sha256::digest(&bytes)) != noted.sha256 {
        return Err(wrong(&"it changes while it is read"));
    }
    let wanted = (film, config.video.frames);
    let frames = match read_clip(&shown(config, name), &bytes, wanted) {
        Err(NoClip::Program(error)) => return Err(error),
        frames => frames.map_err(|problem| wrong(&problem))?,
    };
    let made = film.generated(config.grid);
    let frames = frames.iter().map(|frame| frame.widened(made).into_owned());
    Ok(Clip::new(frames.collect()))
}

/// What became of the files that a story began with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Pictures {
    /// They are what they were, as far as anybody knows.
    Same,
    /// This one is another, as in "its picture a.png".
    Other(String),
    /// None is another, but this one cannot be read any more, as in "a.png: no such file".
    Gone(String),
}

/// Compares the files of a story with those that it was begun with.
pub(crate) fn compare(
    folder: &RunFolder,
    config: &RunConfig,
    file: &StoryFile,
) -> Result<Pictures, RunError> {
    let mut result = Pictures::Same;
    for (place, name) in file.begins_with().enumerate() {
        let other = || {
            let what = match file.first_shot.as_ref() == Some(name) {
                true => "its first shot",
                false => "its picture",
            };
            Pictures::Other(format!("{what} {name}"))
        };
        match is_same(folder, config, file, (place, name))? {
            Ok(true) => {}
            Ok(false) => return Ok(other()),
            // One of another size cannot be the same.
            Err(FileProblem::Empty | FileProblem::Bytes { .. }) => {
                return Ok(other());
            }
            Err(problem) => result = Pictures::Gone(format!("{name}: {problem}")),
        }
    }
    Ok(result)
}

/// Whether the file at `place` is what it was; the inner error is that it cannot be read.
fn is_same(
    folder: &RunFolder,
    config: &RunConfig,
    file: &StoryFile,
    (place, name): (usize, &String),
) -> Result<Result<bool, FileProblem>, RunError> {
    let picture = match OpenedInput::open(&config.input_folder, name) {
        Ok(opened) => opened,
        Err(problem) => return Ok(Err(problem)),
    };
    if let Some(noted) = file.inputs.get(place) {
        return Ok(noted.is_still(picture).map_err(FileProblem::Io));
    }
    // What earlier versions have left behind.
    if file.brief.is_some()
        && let Some(noted) = sound_plan(folder, &file.id)?.and_then(|plan| plan.picture)
    {
        let found = picture.sha256().map_err(FileProblem::Io);
        return Ok(found.map(|found| found == noted));
    }
    // A record that is damaged is for `verify` to find, or for the program that goes on with the story.
    let remembered = references(folder, &file.id).or_else(|error| match error.class() {
        ErrorClass::Shot => Ok(Vec::new()),
        _ => Err(error),
    })?;
    match remembered.get(place).and_then(|kept| kept.picture.as_ref()) {
        Some(kept) => {
            let kept = folder.story(&file.id).join(&kept.file);
            let path = shown(config, name);
            let found = config.input_folder.read(name, Limits::default().bytes);
            let kept = decoded(folder, &kept);
            Ok(found.map(|bytes| shows_the_same(config, file, place, (&path, &bytes), kept)))
        }
        None => Ok(Ok(true)),
    }
}

/// A picture that is remembered, if it can be read.
fn decoded(folder: &RunFolder, path: &Path) -> Option<RgbImage> {
    let bytes = folder.storage().read(path).ok()?;
    decode_picture(path, &bytes).ok()
}

/// Whether a picture is the one that is remembered, as earlier versions kept it: with the pixels of its
/// file, or in the film's shape.
fn shows_the_same(
    config: &RunConfig,
    file: &StoryFile,
    place: usize,
    (path, bytes): (&Path, &[u8]),
    kept: Option<RgbImage>,
) -> bool {
    // One that is remembered and cannot be read is for `verify` to find.
    let Some(kept) = kept else {
        return true;
    };
    if decode_picture(path, bytes).is_ok_and(|picture| picture == kept) {
        return true;
    }
    // A story whose file is lost knows no size; what it remembers has it.
    let made = file
        .size
        .map_or_else(|| size_of(&kept), |size| size.generated(config.grid));
    let shaped = open_pictures(config, file).ok();
    let shaped = shaped.and_then(|(pictures, _)| in_shape(config, file, &pictures, made).ok());
    shaped.is_some_and(|shaped| shaped.get(place) == Some(&kept))
}

fn size_of(picture: &RgbImage) -> Resolution {
    Resolution {
        width: picture.width(),
        height: picture.height(),
    }
}
