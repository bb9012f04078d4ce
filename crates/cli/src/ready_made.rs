//! The ready-made first shots of stories, before anything is made of them.

use storyloom_orchestrator::output::check_clip;

use crate::config::resolved::FilmConfig;
use crate::exit::{Exit, Failure};
use crate::input::Input;

/// Refuses stories whose ready-made first shot is no video, or none of the size and length of their shots.
/// Without `films`, since no settings are named, only that it is a video is looked at. Where `ffmpeg` is away
/// it is not decoded, and a note on stderr says so.
///
/// # Errors
/// The first of them, by its story and its line.
pub fn check_first_shots(films: Option<&FilmConfig>, input: &Input) -> Result<(), Failure> {
    for story in input.stories() {
        let Some(name) = &story.first_shot else {
            continue;
        };
        let has_picture = !story.reference_images.is_empty();
        let wanted = films.and_then(|films| {
            let size = films.size_of(story.size, has_picture)?;
            Some((size, films.video.frames))
        });
        let what = format!(
            "the ready-made first shot {name:?} of the story {}",
            story.id
        );
        match check_clip(&input.folder, name, wanted) {
            Ok(Ok(())) => {}
            Ok(Err(problem)) => {
                let place = input.place(&story.id);
                let message = format!("{place}{what} cannot be used: {problem}");
                return Err(Failure::new(Exit::Input, message));
            }
            Err(error) => eprintln!("note: {what} was not decoded: {error}"),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use storyloom_story::Method;

    use crate::config::options::Inputs;
    use crate::input;

    #[test]
    fn a_picture_is_no_first_shot() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.jsonl");
        let line = r#"{"schema":"storyloom.os.story/1","id":"cat","setting":"t2msv","first_shot":"a.mp4","shots":[{"i":1,"caption":"A cat."},{"i":2,"caption":"It sits."}]}"#;
        fs::write(&path, line).unwrap();
        let picture = folder.path().join("a.png");
        image::RgbImage::new(32, 32).save(&picture).unwrap();
        fs::rename(picture, folder.path().join("a.mp4")).unwrap();
        let read = input::read(&path, &Inputs::default(), &Method::KNOWN).unwrap();
        let input = read.unwrap_or_else(|report| panic!("{:?}", report.problems));
        let failure = check_first_shots(None, &input).unwrap_err();
        assert_eq!(failure.exit, Exit::Input);
        for words in [
            "m.jsonl:1: ",
            "of the story cat cannot be used: it cannot be decoded",
        ] {
            assert!(
                failure.message.contains(words),
                "{words}: {}",
                failure.message
            );
        }
    }
}
