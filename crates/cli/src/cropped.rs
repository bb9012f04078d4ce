//! Films that are made larger than they are asked for, and cropped.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;
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
    let grid = films.grid;
    let films = sizes.into_iter().map(|(size, films)| CroppedFilms {
        films,
        size,
        generated: size.generated(grid),
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
        if let Err(problem @ VideoSpecError::Pixels { .. }) = video.check(films.grid) {
            let place = input.place(id);
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
    films.size_of(size, has_picture)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use storyloom_story::Method;

    use crate::config::options::Inputs;
    use crate::config::{Resolved, load};
    use crate::input;

    const SCRIPT: &str =
        r#""script":{"scenes":[{"scene_num":1,"video_prompts":["A cat."],"cut":[true]}]}"#;

    fn films(sets: &[&str]) -> FilmConfig {
        let sets: Vec<String> = sets.iter().map(|&set| set.to_owned()).collect();
        Resolved::new(load(None, [], &sets).unwrap()).films
    }

    fn input(keys: &[&str]) -> Input {
        let lines = keys.iter().enumerate();
        let lines: Vec<String> = lines
            .map(|(number, keys)| format!(r#"{{"id":"s{number}",{keys}{SCRIPT}}}"#))
            .collect();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.jsonl");
        fs::write(&path, lines.join("\n")).unwrap();
        let read = input::read(&path, &Inputs::default(), &Method::WITH_NETWORKS).unwrap();
        read.map_err(|report| report.problems).unwrap()
    }

    #[test]
    fn films_of_one_size_are_told_together_and_only_if_they_are_cropped() {
        let films = films(&["video.width=160", "video.height=90"]);
        let found = cropped_films(&films, &input(&["", "", r#""size":[160,96],"#]));
        let told: Vec<String> = found.iter().map(ToString::to_string).collect();
        assert_eq!(told, ["2 films are made at 160x96 and cropped to 160x90"]);
    }

    /// Sides and length are possible each by itself, and all together are more than any memory has.
    #[test]
    fn a_film_that_no_memory_holds_is_refused_by_its_line() {
        let films = films(&["video.frames=4097"]);
        let fits = input(&["", r#""size":[64,64],"#]);
        assert!(check_pixels(&films, &fits).is_ok());
        let large = input(&["", r#""size":[4096,4096],"#]);
        let failure = check_pixels(&films, &large).unwrap_err();
        assert_eq!(failure.exit, Exit::Input);
        let said = failure.message;
        assert!(
            said.contains("m.jsonl:2: the story s1 is too large"),
            "{said}"
        );
    }
}
