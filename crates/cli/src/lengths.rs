//! Stories that are written for shots of another length or rate than the settings have.

use storyloom_story::VideoSpec;

use crate::exit::{Exit, Failure};
use crate::input::Input;

/// Refuses stories that say how many frames a shot has, or how many a second, and say it otherwise than the
/// settings: all shots of a run have the same.
///
/// # Errors
/// The first of them, by its story and its line.
pub fn check_lengths(video: &VideoSpec, input: &Input) -> Result<(), Failure> {
    for story in input.stories() {
        let Some(notes) = &story.notes else {
            continue;
        };
        for (key, wanted, set) in [
            ("frames", notes.frames, video.frames),
            ("fps", notes.fps, video.fps),
        ] {
            let Some(wanted) = wanted.filter(|wanted| *wanted != set) else {
                continue;
            };
            let message = format!(
                "{}the story {} is written for {key} = {wanted}, and video.{key} is {set}\n  help: set video.{key} = \
                 {wanted}, or change or remove \"{key}\" in the story",
                input.place(&story.id),
                story.id
            );
            return Err(Failure::new(Exit::Input, message));
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
    fn another_length_is_refused_by_line_and_story() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.jsonl");
        let line = |id: &str, keys: &str| {
            format!(
                "{{\"schema\":\"storyloom.os.story/1\",\"id\":\"{id}\",\"setting\":\"t2msv\",{keys}\
                 \"shots\":[{{\"i\":1,\"caption\":\"A man.\"}}]}}\n"
            )
        };
        let video = VideoSpec {
            width: 96,
            height: 64,
            frames: 17,
            fps: 8,
        };
        let checked = |keys: &str| {
            fs::write(&path, line("a", "") + &line("b", keys)).unwrap();
            let read = input::read(&path, &Inputs::default(), &Method::KNOWN).unwrap();
            check_lengths(&video, &read.map_err(|report| report.problems).unwrap())
        };
        assert!(checked("\"frames\":17,\"fps\":8,").is_ok());
        for (keys, wanted) in [
            (
                "\"frames\":81,",
                "written for frames = 81, and video.frames is 17\n  help: set video.frames = 81",
            ),
            (
                "\"frames\":17,\"fps\":16,",
                "written for fps = 16, and video.fps is 8",
            ),
        ] {
            let failure = checked(keys).unwrap_err();
            assert_eq!(failure.exit, Exit::Input);
            assert!(
                failure.message.contains("m.jsonl:2: the story b is"),
                "{}",
                failure.message
            );
            assert!(failure.message.contains(wanted), "{}", failure.message);
        }
    }
}
