//! Films that are made larger than they are asked for, and cropped.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;
use storyloom_orchestrator::FilmShape;
use storyloom_story::video::VideoSpecError;
use storyloom_story::{Line, Resolution, VideoSpec};

use crate::config::resolved::FilmConfig;
use crate::exit::{Exit, Failure};
use crate::input::Input;

/// Films of a size that no model makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct CroppedFilms {
    /// How many.
    films: usize,
    /// Their size.
    size: Resolution,
    /// The size at which they are made.
    generated: Resolution,
}

impl fmt::Display for CroppedFilms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            films,
            size,
            generated,
        } = self;
        let are = match films {
            1 => "1 film is",
            _ => &format!("{films} films are"),
        };
        write!(f, "{are} made at {generated} and cropped to {size}")
    }
}

/// The films of `input` in a run of this config that are cropped, by size.
pub fn cropped_films(films: &FilmConfig, input: &Input) -> Vec<CroppedFilms> {
    let mut sizes: BTreeMap<Resolution, usize> = BTreeMap::new();
    for size in input.lines.iter().filter_map(|line| size(films, line)) {
        *sizes.entry(size).or_default() += 1;
    }
    let films = sizes.into_iter().map(|(size, films)| CroppedFilms {
        films,
        size,
        generated: size.generated(),
    });
    films.filter(|film| film.size != film.generated).collect()
}

/// Refuses films whose shots have more pixels than can be in memory at once: lines have sizes of their own,
/// and the settings have the frames.
///
/// # Errors
/// The first of them, by its story and its line.
pub fn check_pixels(films: &FilmConfig, input: &Input) -> Result<(), Failure> {
    for line in &input.lines {
        let (id, size) = match line {
            Line::Story(story) => (&story.id, story.size),
            Line::Brief(brief) => (&brief.id, brief.size),
        };
        let Some(Resolution { width, height }) = size else {
            continue;
        };
        let video = VideoSpec {
            width,
            height,
            ..films.video
        };
        if let Err(problem @ VideoSpecError::Pixels { .. }) = video.check() {
            let place = input.places.get(id);
            let place = place.map_or_else(String::new, |place| format!("line {}: ", place.line));
            let message = format!("{place}the story {id} is too large: {problem}");
            return Err(Failure::new(Exit::Input, message));
        }
    }
    Ok(())
}

/// The size of a film, unless it takes it from its first picture.
fn size(films: &FilmConfig, line: &Line) -> Option<Resolution> {
    let (size, has_picture) = match line {
        Line::Story(story) => (story.size, !story.reference_images.is_empty()),
        Line::Brief(brief) => (brief.size, brief.product_image.is_some()),
    };
    let of_picture = has_picture && films.shape() == FilmShape::Picture;
    size.or_else(|| (!of_picture).then(|| films.video.resolution()))
}
