//! `tokenizer.json` of a text encoder and of a language model.

#![no_main]

use std::fs;
use std::path::PathBuf;
use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use storyloom_models::language::LanguageTokenizer;
use storyloom_models::text::PromptTokenizer;

const WORDS: &str = "A paper fox, 42 cm tall.\n\u{e9}\u{4e2d} <end>";

/// A folder in memory.
fn folder() -> &'static PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let folder = PathBuf::from(format!("/dev/shm/storyloom-fuzz-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("there is memory");
        folder
    })
}

/// Panics of libraries that become errors are none.
fn forgive() {
    static ONCE: OnceLock<()> = OnceLock::new();
    ONCE.get_or_init(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !storyloom_story::guard::is_guarded() {
                usual(info);
            }
        }));
    });
}

fuzz_target!(|bytes: &[u8]| {
    forgive();
    let folder = folder();
    fs::write(folder.join("tokenizer.json"), bytes).expect("there is memory");
    if let Ok(tokenizer) = PromptTokenizer::open(folder, 16)
        && let Ok(tokens) = tokenizer.encode(WORDS)
    {
        assert!(tokens.len() <= 16, "prompts are cut");
    }
    if let Ok(tokenizer) = LanguageTokenizer::open(folder)
        && let Ok(tokens) = tokenizer.encode(WORDS)
    {
        let _ = tokenizer.decode(&tokens);
        let _ = tokenizer.decode_with(&tokens, false);
    }
    storyloom_planner::native::fuzzing::grammars(bytes);
});
