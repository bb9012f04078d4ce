//! A plan as a text of tokens: the story in short, and for each picture what it shows and where it belongs.

use serde::{Deserialize, Serialize};
use storyloom_nn::error::{ModelError, Result};
use storyloom_story::narrative_weaver::SamplePlan;

use crate::language::LanguageTokenizer;

/// The tokens around the slots of a picture: `<img>` and `</img>` of the paper.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "[u32; 2]", into = "[u32; 2]")]
pub struct ImageTokens {
    /// Comes before them.
    pub open: u32,
    /// Comes behind them.
    pub close: u32,
}

impl Default for ImageTokens {
    /// Rows of the embedding of Qwen2.5 that no text uses; the choice is ours. Its tokenizer does not know them, and
    /// leaves them out when it writes a text.
    fn default() -> Self {
        Self {
            open: 151_665,
            close: 151_666,
        }
    }
}

impl From<[u32; 2]> for ImageTokens {
    fn from([open, close]: [u32; 2]) -> Self {
        Self { open, close }
    }
}

impl From<ImageTokens> for [u32; 2] {
    fn from(ImageTokens { open, close }: ImageTokens) -> Self {
        [open, close]
    }
}

/// The texts of a plan.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PlanText {
    /// The story in short; without line ends.
    pub overview: String,
    /// What each picture shows.
    pub shots: Vec<String>,
}

impl From<&SamplePlan> for PlanText {
    fn from(plan: &SamplePlan) -> Self {
        Self {
            overview: plan.overview.clone().unwrap_or_default(),
            shots: plan.shots.iter().map(|shot| shot.text.clone()).collect(),
        }
    }
}

impl PlanText {
    /// The plan as the language model writes it, without the token that ends its turn: the story in short on a line
    /// of its own, then the text of each picture with `<img>` and `</img>` behind it. The line end is ours: the paper
    /// gives only the brackets.
    ///
    /// # Errors
    /// The tokenizer fails, or a text has one of the two tokens in it.
    pub fn tokens(&self, tokenizer: &LanguageTokenizer, image: ImageTokens) -> Result<Vec<u32>> {
        let overview = self.overview.replace(['\n', '\r'], " ");
        let mut tokens = tokenizer.encode(&format!("{overview}\n"))?;
        let mut texts = vec![tokens.clone()];
        for shot in &self.shots {
            let text = tokenizer.encode(shot)?;
            tokens.extend_from_slice(&text);
            tokens.extend([image.open, image.close]);
            texts.push(text);
        }
        let is_bracket = |token: &u32| *token == image.open || *token == image.close;
        match texts.iter().position(|text| text.iter().any(is_bracket)) {
            None => Ok(tokens),
            Some(text) => {
                let reason = format!("text {text} has a token in it that stands around pictures");
                Err(ModelError::input("plan", reason))
            }
        }
    }

    /// The plan that a language model has written. What follows the last picture is left out.
    ///
    /// # Errors
    /// The tokenizer fails.
    pub fn read(tokens: &[u32], tokenizer: &LanguageTokenizer, image: ImageTokens) -> Result<Self> {
        let parts = tokens.split(|token| *token == image.open);
        let texts = parts.map(|part| {
            let close = part.first() == Some(&image.close);
            tokenizer.decode(&part[usize::from(close)..])
        });
        let mut texts: Vec<String> = texts.collect::<Result<_>>()?;
        texts.pop();
        let mut plan = Self::default();
        if let Some(first) = texts.first_mut()
            && let Some((overview, shot)) = first.split_once('\n')
        {
            plan.overview = overview.trim().to_owned();
            *first = shot.to_owned();
        }
        plan.shots = texts.iter().map(|text| text.trim().to_owned()).collect();
        Ok(plan)
    }
}
