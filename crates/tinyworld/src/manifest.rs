//! Stories of the world as a manifest that runs.

use std::ops::Range;

use serde::Serialize;
use storyloom_story::{StoryId, StoryScript};

use super::split::Split;
use super::story::Story;

/// A line of a manifest.
#[derive(Serialize)]
struct Line {
    id: StoryId,
    script: StoryScript,
}

/// The stories of `seeds` as JSON lines with their scripts inside.
///
/// # Errors
///
/// None that can be met: plain text becomes JSON.
pub fn manifest(split: Split, seeds: Range<u64>) -> Result<String, serde_json::Error> {
    let mut text = String::new();
    for seed in seeds {
        let story = Story::draw(seed, split);
        let line = Line {
            script: story.script(),
            id: story.id,
        };
        text.push_str(&serde_json::to_string(&line)?);
        text.push('\n');
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use storyloom_story::parse_manifest;

    use super::*;

    #[test]
    fn a_manifest_reads_back_as_the_same_stories() {
        let text = manifest(Split::HeldOut, 5..9).unwrap();
        let no_files = |path: &str| Err(format!("{path} is not inside"));
        let stories = parse_manifest("m.jsonl", &text, &no_files).unwrap().stories;
        assert_eq!(stories.len(), 4);
        for (entry, seed) in stories.iter().zip(5..) {
            let story = Story::draw(seed, Split::HeldOut);
            assert_eq!(entry.script, story.script());
            assert_eq!(Story::named(&entry.id), Some(story));
        }
    }
}
