//! What stories of OneStory must be like, before anything of them is made.

use storyloom_story::{Method, Resolution, onestory_line};

use crate::config::Resolved;
use crate::exit::{Exit, Failure};
use crate::input::Input;

/// Refuses stories of OneStory that cannot be made: with more than one image to begin with, with a caption that
/// says nothing, or at a size at which the budget does not hold the frames that it is to hold.
///
/// # Errors
/// The first of them, by its name and its line.
pub fn check_onestory(config: &Resolved, input: &Input) -> Result<(), Failure> {
    let films = &config.films;
    for story in input.stories() {
        if story.method.unwrap_or(config.engine.method) != Method::OneStory {
            continue;
        }
        let refuse = |reason: String| {
            let place = input.place(&story.id);
            Failure::new(Exit::Input, format!("{place}{reason}"))
        };
        onestory_line(story)
            .map_err(|wrong| refuse(format!("{wrong}\n  help: {}", wrong.help())))?;
        // A film that takes its size from a picture is looked at when that is opened.
        let Some(size) = films.size_of(story.size, !story.reference_images.is_empty()) else {
            continue;
        };
        let plane = films.grid.plane(size.generated(films.grid));
        let counts = config.engine.onestory.budget().counts(plane);
        counts.map_err(|error| {
            let Resolution { width, height } = size;
            refuse(format!(
                "the story {} at {width}x{height} cannot see what onestory.frames_per_kernel says: {error}\n  \
                 help: give onestory.frames_per_kernel less, or leave it empty for what fits the budget",
                story.id
            ))
        })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::config::load;
    use crate::config::options::Inputs;
    use crate::input;

    fn checked(keys: &str, prompt: &str, sets: &[&str]) -> Result<(), Failure> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.jsonl");
        let line = format!(
            r#"{{"id":"cat",{keys}"script":{{"scenes":[{{"scene_num":1,"video_prompts":["{prompt}"],"cut":[true]}}]}}}}"#
        );
        fs::write(&path, line).unwrap();
        for name in ["a.png", "b.png"] {
            image::RgbImage::new(32, 32)
                .save(folder.path().join(name))
                .unwrap();
        }
        let sets: Vec<String> = sets.iter().map(|&set| set.to_owned()).collect();
        let config = Resolved::new(load(None, [], &sets).unwrap());
        let read = input::read(&path, &Inputs::default(), &Method::KNOWN).unwrap();
        let input = read.unwrap_or_else(|report| panic!("{:?}", report.problems));
        check_onestory(&config, &input)
    }

    #[test]
    fn a_budget_that_a_size_cannot_hold_is_told_with_story_and_size() {
        let sets = ["engine=simulated", "onestory.frames_per_kernel=0,4,0,0"];
        let of = |keys: &str| checked(&format!(r#""method":"onestory",{keys}"#), "A cat.", &sets);
        assert!(of("").is_ok());
        // The last column of the coarser kernel hangs over the edge.
        let failure = of(r#""size":[80,64],"#).unwrap_err();
        assert_eq!(failure.exit, Exit::Input);
        for words in [
            "m.jsonl:1: the",
            "the story cat at 80x64",
            "24 tokens",
            "holds 20",
        ] {
            assert!(
                failure.message.contains(words),
                "{words}: {}",
                failure.message
            );
        }
        // A film in the shape of its picture, a square here, is none of the settings' size.
        let wide = [&sets[..], &["video.width=80", "video.height=64"]].concat();
        let begun = r#""method":"onestory","reference_images":["a.png"],"#;
        assert!(checked(r#""method":"onestory","#, "A cat.", &wide).is_err());
        assert!(checked(begun, "A cat.", &wide).is_ok());
        let of_video = [&wide[..], &["pictures.shape=video"]].concat();
        assert!(checked(begun, "A cat.", &of_video).is_err());
        // Stories of other methods have no budget.
        assert!(checked(r#""size":[80,64],"#, "A cat.", &sets).is_ok());
    }

    #[test]
    fn a_story_begins_with_one_image_and_its_captions_say_something() {
        let of = |keys: &str, prompt: &str| checked(keys, prompt, &["engine=simulated"]);
        let onestory = r#""method":"onestory","#;
        let one = format!(r#"{onestory}"reference_images":["a.png"],"#);
        assert!(of(&one, "A cat.").is_ok());
        let two = format!(r#"{onestory}"reference_images":["a.png","b.png"],"#);
        let said = of(&two, "A cat.").unwrap_err().message;
        assert!(said.contains("2 reference images"), "{said}");
        let said = of(onestory, "\u{200b}\u{200b}").unwrap_err().message;
        assert!(said.contains("nothing is left"), "{said}");
    }
}
