//! Prompts that are longer than what the text encoder reads.

use std::fmt;
use std::thread;

use serde::Serialize;
use storyloom_models::text::{PromptTokenizer, TEXT_ROWS, clean_prompt};
use storyloom_nn::checkpoint::component_folder;
use storyloom_story::{Method, ShotId, StoryId, StoryScript};

use crate::config::grid::{networks_of, text_pipeline};
use crate::config::options::EngineKind;
use crate::config::resolved::EngineConfig;

/// Tokens that the text encoder reads of a prompt.
const READ: usize = TEXT_ROWS as usize;

/// Counts the tokens of prompts.
#[derive(Debug)]
pub enum Meter {
    /// The tokenizer of a checkpoint.
    Exact(Box<PromptTokenizer>),
    /// What usual text has, where there is no tokenizer.
    Estimate,
}

/// A prompt whose end is not read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LongPrompt {
    /// The story.
    pub story: StoryId,
    /// Scene and shot.
    pub shot: ShotId,
    /// Tokens of the prompt.
    pub tokens: usize,
    /// Tokens that are read.
    pub read: usize,
    /// Whether a tokenizer counted them.
    pub exact: bool,
}

impl fmt::Display for LongPrompt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            story,
            shot: ShotId { scene, shot },
            tokens,
            read,
            exact,
        } = self;
        let about = if *exact { "" } else { "about " };
        write!(
            f,
            "story {story}, scene {scene}, shot {shot}: the prompt has {about}{tokens} tokens, of \
             which the text encoder reads the first {read}; the rest is not seen, so say it in \
             fewer words"
        )
    }
}

impl Meter {
    /// The tokenizer of the checkpoint that the settings name, if it is there, or an estimate.
    /// `None` where no text encoder is to read anything.
    pub fn of(engine: &EngineConfig) -> Option<Self> {
        if engine.kind != EngineKind::Torch {
            return None;
        }
        let pipeline = text_pipeline(
            networks_of(engine.method, &engine.onestory),
            engine.models(),
        );
        let folder = component_folder(&pipeline, "tokenizer");
        // Nothing is cut here. Why it cannot be opened is told by the code that loads the checkpoint.
        let tokenizer = PromptTokenizer::open(&folder, usize::MAX);
        Some(tokenizer.map_or(Self::Estimate, |tokenizer| Self::Exact(Box::new(tokenizer))))
    }

    /// The prompts of a script that are too long.
    pub fn long_prompts(&self, story: &StoryId, script: &StoryScript) -> Vec<LongPrompt> {
        let shots = script.shots();
        let long = shots.filter_map(|(shot, script)| {
            let tokens = self.tokens(&script.prompt);
            (tokens > READ).then(|| LongPrompt {
                story: story.clone(),
                shot,
                tokens,
                read: READ,
                exact: matches!(self, Self::Exact(_)),
            })
        });
        long.collect()
    }

    /// As [`Meter::long_prompts`], of many scripts, on all cores.
    pub fn all_long_prompts(&self, scripts: &[(&StoryId, &StoryScript)]) -> Vec<LongPrompt> {
        let threads = thread::available_parallelism().map_or(1, usize::from);
        let share = scripts.len().div_ceil(threads).max(1);
        let of_share = |share: &[(&StoryId, &StoryScript)]| -> Vec<LongPrompt> {
            let each = share.iter();
            each.flat_map(|(story, script)| self.long_prompts(story, script))
                .collect()
        };
        thread::scope(|scope| {
            let threads = scripts
                .chunks(share)
                .map(|share| scope.spawn(move || of_share(share)));
            let threads: Vec<_> = threads.collect();
            // A thread that panicked has said so; its prompts are made all the same.
            let found = threads.into_iter().filter_map(|thread| thread.join().ok());
            found.flatten().collect()
        })
    }

    /// Says so of the prompt that is given with every shot.
    pub fn warn_of_negative(&self, engine: &EngineConfig) {
        let (table, prompt) = match engine.method {
            Method::OneStory => ("onestory", &engine.onestory.negative_prompt),
            _ => ("storymem", &engine.storymem.negative_prompt),
        };
        let tokens = self.tokens(prompt);
        if tokens > READ {
            tracing::warn!(
                "{table}.negative_prompt has {tokens} tokens, of which the text encoder reads {READ}"
            );
        }
    }

    fn tokens(&self, prompt: &str) -> usize {
        // No token is shorter than a letter, and the end of the text is one more.
        if prompt.is_ascii() && prompt.len() + 2 < READ {
            return prompt.len().min(READ);
        }
        match self {
            // A tokenizer that fails does so again where the prompt is encoded.
            Self::Exact(tokenizer) => tokenizer
                .encode(&clean_prompt(prompt))
                .map_or(0, |tokens| tokens.len()),
            Self::Estimate => estimate(prompt),
        }
    }
}

/// About how many tokens UMT5 makes of a text: most words are one, long words more, and so are
/// numbers; of Chinese and its neighbours two tokens are about three letters.
fn estimate(prompt: &str) -> usize {
    /// Letters of a usual token.
    const LETTERS: usize = 7;
    let (mut tokens, mut wide) = (1, 0);
    let mut word = 0;
    for c in prompt.chars().chain([' ']) {
        let is_wide = matches!(c, '\u{3040}'..='\u{30ff}' | '\u{3400}'..='\u{9fff}' | '\u{ac00}'..='\u{d7a3}');
        if c.is_alphabetic() && !is_wide {
            word += 1;
            continue;
        }
        tokens += usize::div_ceil(word, LETTERS);
        word = 0;
        wide += usize::from(is_wide);
        tokens += usize::from(!is_wide && !c.is_whitespace());
    }
    tokens + wide * 2 / 3
}

#[cfg(test)]
mod tests {
    use storyloom_story::parse_script;

    use super::*;

    fn script(prompt: &str) -> StoryScript {
        let text = format!(
            "{{\"scenes\":[{{\"scene_num\":1,\"video_prompts\":[\"A dog.\",{prompt:?}],\"cut\":[true,true]}}]}}"
        );
        parse_script("s", &text).unwrap()
    }

    #[test]
    fn estimates_grow_with_what_is_written() {
        // Between one token a word and one a character, the end token included.
        for (text, least, most) in [
            ("A red mug stands on a table.", 8, 11),
            ("一只红色的杯子放在桌子上", 7, 13),
            ("", 1, 1),
        ] {
            let found = estimate(text);
            assert!((least..=most).contains(&found), "{text}: {found}");
        }
    }

    #[test]
    fn long_prompts_are_named_with_their_place() {
        let id = StoryId::new("s1").unwrap();
        let long = script(&"A red mug stands on a table. ".repeat(200));
        let short = script("A cat.");
        let found = Meter::Estimate.all_long_prompts(&[(&id, &short), (&id, &long)]);
        assert_eq!(found.len(), 1);
        let told = found[0].to_string();
        assert!(
            told.starts_with("story s1, scene 1, shot 2: the prompt has about 1"),
            "{told}"
        );
        assert!(told.contains("reads the first 512"), "{told}");
    }
}
