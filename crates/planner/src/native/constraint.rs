//! Keeping what a model writes inside a schema.

use std::sync::Arc;

use llguidance::api::TopLevelGrammar;
use llguidance::toktrie::{ApproximateTokEnv, TokEnv, TokRxInfo, TokTrie};
use llguidance::{Matcher, ParserFactory};
use storyloom_models::language::{Constraint, LanguageModel, TokenMask};
use storyloom_nn::ModelError;

use super::vocabulary::Vocabulary;
use crate::schema::Schema;

/// Makes constraints for the vocabulary of one model.
pub(super) struct Grammars {
    factory: ParserFactory,
}

/// Where an answer is inside its schema.
struct Grammar {
    matcher: Matcher,
}

fn broken(error: impl std::fmt::Display) -> ModelError {
    ModelError::input("the grammar of an answer", error.to_string())
}

impl Grammars {
    pub(super) fn of(model: &LanguageModel) -> Result<Self, ModelError> {
        let size = model.config().vocab_size;
        let ends = &model.generation().end_tokens;
        Self::new(model.tokenizer().bytes(), size as usize, ends)
    }

    /// For the `size` tokens of a `tokenizer.json`, of which `ends` end a text.
    pub(super) fn new(tokenizer: &[u8], size: usize, ends: &[u32]) -> Result<Self, ModelError> {
        let vocabulary = Vocabulary::read(tokenizer, size)
            .map_err(|reason| ModelError::input("tokenizer.json", reason))?;
        let first = ends.first().copied().ok_or_else(|| {
            let reason = "the model has no token that ends a text; set eos_token_id";
            ModelError::input("config.json", reason)
        })?;
        let info = TokRxInfo {
            vocab_size: size as u32,
            tok_eos: first,
            tok_bos: None,
            tok_pad: None,
            tok_unk: None,
            tok_end_of_turn: None,
        };
        let trie = TokTrie::from(&info, &vocabulary.tokens).with_eos_tokens(ends);
        let environment: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
        let mut factory = ParserFactory::new_simple(&environment).map_err(broken)?;
        factory.quiet();
        Ok(Self { factory })
    }

    /// A constraint for one answer.
    pub(super) fn constraint(&self, schema: &Schema) -> Result<Box<dyn Constraint>, ModelError> {
        let mut value = schema.value.clone();
        // A model that knows nothing could write spaces for ever.
        value["x-guidance"] = serde_json::json!({"whitespace_flexible": false});
        let grammar = TopLevelGrammar::from_json_schema(value);
        let matcher = Matcher::new(self.factory.create_parser(grammar));
        match matcher.get_error() {
            Some(error) => Err(broken(error)),
            None => Ok(Box::new(Grammar { matcher })),
        }
    }
}

impl Constraint for Grammar {
    fn mask(&mut self) -> Result<TokenMask, ModelError> {
        let mask = self.matcher.compute_mask_or_eos().map_err(broken)?;
        Ok(TokenMask::from_words(mask.as_slice().to_vec()))
    }

    fn commit(&mut self, token: u32) -> Result<bool, ModelError> {
        self.matcher.consume_token(token).map_err(broken)?;
        Ok(self.matcher.is_stopped())
    }
}

#[cfg(test)]
mod tests {
    use rand_chacha::ChaCha8Rng;
    use rand_chacha::rand_core::{RngCore, SeedableRng};
    use serde_json::json;

    use super::*;
    use crate::schema::{Bounds, Caption, Draft, Reference, Scenarios, read_answer};

    /// One token per byte as GPT-2 writes them, some words, and two special tokens.
    fn tokenizer() -> (Vec<u8>, usize, u32) {
        let mut vocabulary = serde_json::Map::new();
        for byte in 0..=255_u8 {
            let letter = storyloom_models::language::letter_of(byte);
            vocabulary.insert(letter.to_string(), json!(byte));
        }
        for (word, id) in [("Ġthe", 256), ("\":", 257), ("true", 258), ("Ã", 259)] {
            vocabulary.insert(word.to_owned(), json!(id));
        }
        let text = json!({
            "model": {"type": "BPE", "vocab": vocabulary, "merges": []},
            "decoder": {"type": "ByteLevel"},
            "added_tokens": [
                {"id": 260, "content": "<|end|>", "special": true},
                {"id": 261, "content": "<|user|>", "special": true},
            ],
        });
        (text.to_string().into_bytes(), 270, 260)
    }

    /// What somebody writes who takes any token that is allowed.
    fn random_text(grammars: &Grammars, schema: &Schema, seed: u64) -> String {
        let (tokenizer, size, end) = tokenizer();
        let words = Vocabulary::read(&tokenizer, size).unwrap().tokens;
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let mut constraint = grammars.constraint(schema).unwrap();
        let mut bytes = Vec::new();
        for _ in 0..100_000 {
            let mask = constraint.mask().unwrap();
            let allowed: Vec<u32> = (0..size as u32)
                .filter(|&token| mask.allows(token))
                .collect();
            assert!(
                !allowed.is_empty(),
                "nothing may follow {}",
                String::from_utf8_lossy(&bytes)
            );
            let token = allowed[(random.next_u64() % allowed.len() as u64) as usize];
            assert!(
                token < 260 || token == end,
                "token {token} is special or none"
            );
            if token == end {
                break;
            }
            bytes.extend(&words[token as usize]);
            if constraint.commit(token).unwrap() {
                break;
            }
        }
        String::from_utf8(bytes).unwrap()
    }

    /// The schemas and the types that read the answers agree, whatever a model writes.
    #[test]
    fn whatever_a_random_model_writes_can_be_read() {
        let (bytes, size, end) = tokenizer();
        let grammars = Grammars::new(&bytes, size, &[end]).unwrap();
        for seed in 0..6 {
            let bounds = Bounds {
                shots: seed as u32 % 3 + 1,
                prompt: 60,
                product: seed % 2 == 0,
            };
            let text = random_text(&grammars, &bounds.script(), seed);
            let draft: Draft = read_answer(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
            assert_eq!(draft.shots.len(), bounds.shots as usize);
            assert_eq!(draft.product.is_some(), bounds.product);
            for shot in &draft.shots {
                let length = shot.prompt.chars().count();
                assert!((16..=60).contains(&length), "{length} characters: {text}");
            }
            let text = random_text(&grammars, &bounds.reference(), seed);
            read_answer::<Reference>(&text).unwrap();
            let text = random_text(&grammars, &bounds.scenarios(), seed);
            read_answer::<Scenarios>(&text).unwrap();
            let text = random_text(&grammars, &bounds.caption(), seed);
            read_answer::<Caption>(&text).unwrap();
        }
    }

    #[test]
    fn tokens_outside_the_grammar_are_refused() {
        let (bytes, size, end) = tokenizer();
        let grammars = Grammars::new(&bytes, size, &[end]).unwrap();
        let bounds = Bounds {
            shots: 1,
            prompt: 60,
            product: true,
        };
        let mut constraint = grammars.constraint(&bounds.script()).unwrap();
        let mask = constraint.mask().unwrap();
        assert!(mask.allows(u32::from(b'{')) && !mask.allows(u32::from(b'a')) && !mask.allows(end));
        assert!(constraint.commit(u32::from(b'a')).is_err());
        assert!(Grammars::new(&bytes, size, &[]).is_err());
    }
}
