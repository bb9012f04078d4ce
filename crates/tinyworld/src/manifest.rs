//! Stories of the world as a manifest that runs.

use serde::Serialize;
use storyloom_story::{Method, StoryId, StoryScript};

use super::story::Story;

/// A line of a manifest.
#[derive(Serialize)]
struct Line {
    id: StoryId,
    #[serde(skip_serializing_if = "Option::is_none")]
    method: Option<Method>,
    script: StoryScript,
}

/// The stories as JSON lines with their scripts inside, to be made by `method`, or by the run's own.
///
/// # Errors
///
/// None that can be met: plain text becomes JSON.
pub fn manifest(
    stories: impl IntoIterator<Item = Story>,
    method: Option<Method>,
) -> Result<String, serde_json::Error> {
    let mut text = String::new();
    for story in stories {
        let line = Line {
            script: story.script(),
            id: story.id,
            method,
        };
        text.push_str(&serde_json::to_string(&line)?);
        text.push('\n');
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use storyloom_story::{InputFiles, parse_manifest};

    use super::*;
    use crate::{Outline, Pattern, Split};

    /// Files that are not there, and models of every method.
    struct NoFiles;

    impl InputFiles for NoFiles {
        fn script(&self, path: &str) -> Result<String, String> {
            Err(format!("{path} is not inside"))
        }

        fn method(&self, _method: Method) -> Result<(), String> {
            Ok(())
        }

        fn reference_image(&self, path: &str) -> Result<(), String> {
            Err(format!("{path} is not inside"))
        }
    }

    #[test]
    fn a_manifest_reads_back_as_the_same_stories() {
        let drawn: Vec<Story> = (5..9)
            .map(|seed| Story::draw(seed, Split::HeldOut))
            .collect();
        let patterns = Pattern::ALL.iter();
        let patterns: Vec<Story> = patterns
            .map(|&pattern| Outline::of(pattern).draw(5, Split::Train))
            .collect();
        for (stories, method) in [(drawn, None), (patterns, Some(Method::OneStory))] {
            let text = manifest(stories.clone(), method).unwrap();
            let read = parse_manifest("m.jsonl", &text, &NoFiles).unwrap().stories;
            assert_eq!(read.len(), stories.len());
            for (entry, story) in read.iter().zip(stories) {
                assert_eq!(entry.method, method);
                assert_eq!(entry.script, story.script());
                assert_eq!(Story::named(&entry.id), Some(story));
            }
        }
    }

    #[test]
    fn a_line_says_no_method_unless_it_is_asked_for() {
        let text = manifest([Story::draw(3, Split::HeldOut)], None).unwrap();
        assert!(
            text.starts_with("{\"id\":\"tiny-held-out-3\",\"script\":{"),
            "{text}"
        );
    }
}
