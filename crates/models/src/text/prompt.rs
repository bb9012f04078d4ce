//! Cleaning prompts as the Wan pipelines do (specification `wan22`, section 4.4).
//!
//! The pipelines run `ftfy.fix_text`, unescape HTML twice and collapse white space. Ordinary text
//! is changed by this (typographic quotes become straight), and other text gives other tokens.
//! Everything ftfy does by default is done here except the repair of mojibake, text that was
//! decoded with the wrong encoding.

use unicode_normalization::UnicodeNormalization;
use unicode_normalization::char::decompose_compatible;

/// The negative prompt of the original Wan code (Wan2.2, `wan/configs/shared_config.py`,
/// Apache-2.0), used wherever the user gives none: the weights were tuned with it. It rejects
/// gaudy colours, overexposure, stillness, subtitles, low quality and malformed bodies.
pub const DEFAULT_NEGATIVE_PROMPT: &str = "色调艳丽，过曝，静态，细节模糊不清，字幕，风格，作品，画作，画面，\
静止，整体发灰，最差质量，低质量，JPEG压缩残留，丑陋的，残缺的，多余的手指，画得不好的手部，画得不好的脸部，\
畸形的，毁容的，形态畸形的肢体，手指融合，静止不动的画面，杂乱的背景，三条腿，背景人很多，倒着走";

/// Cleans a prompt for the tokenizer.
pub fn clean_prompt(prompt: &str) -> String {
    let fixed = fix_text(prompt);
    let unescaped = htmlize::unescape(htmlize::unescape(fixed).into_owned());
    let words: Vec<&str> = unescaped
        .split(is_space)
        .filter(|word| !word.is_empty())
        .collect();
    words.join(" ")
}

/// White space as Python's `\s` sees it.
fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

/// `ftfy.fix_text` without mojibake repair: line by line, until nothing changes.
fn fix_text(text: &str) -> String {
    let mut unescape = true;
    let mut fixed = String::with_capacity(text.len());
    for line in text.split_inclusive('\n') {
        // Text with tags is taken for HTML source, from here on.
        unescape &= !line.contains('<');
        fixed.push_str(&fix_line(line, unescape));
    }
    fixed
}

fn fix_line(line: &str, unescape: bool) -> String {
    let mut text = line.to_owned();
    loop {
        let unescaped = if unescape {
            unescape_entities(&text)
        } else {
            text.clone()
        };
        let replaced: String = unescaped
            .chars()
            .map(fix_c1_control)
            .flat_map(widen)
            .collect();
        let lines = fix_line_breaks(&uncurl(&replaced));
        let plain: String = remove_terminal_escapes(&lines)
            .chars()
            .filter(|&c| !is_removed_control(c))
            .collect();
        let fixed: String = plain.nfc().collect();
        if fixed == text {
            return fixed;
        }
        text = fixed;
    }
}

/// Entities that end in a semicolon; bare ones are left for the HTML pass.
fn unescape_entities(text: &str) -> String {
    let mut output = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find('&') {
        output.push_str(&rest[..start]);
        rest = &rest[start..];
        let name = rest[1..].find(|c: char| !c.is_ascii_alphanumeric() && c != '#');
        let end = name
            .map(|length| length + 1)
            .filter(|&end| rest[end..].starts_with(';'));
        let taken = end.map_or(1, |end| end + 1);
        output.push_str(&unescape_entity(&rest[..taken]));
        rest = &rest[taken..];
    }
    output.push_str(rest);
    output
}

/// One entity; a name in capitals that means nothing is read as the capital of its small form.
fn unescape_entity(entity: &str) -> String {
    let plain = htmlize::unescape(entity);
    let small = entity.to_ascii_lowercase();
    if plain == entity && entity != small && entity == entity.to_ascii_uppercase() {
        let decoded = htmlize::unescape(&small);
        if decoded != small {
            return decoded.to_uppercase();
        }
    }
    plain.into_owned()
}

/// Control characters of the C1 block are Windows-1252 letters that lost their encoding.
fn fix_c1_control(c: char) -> char {
    const WINDOWS_1252: [char; 32] = [
        '€', '\u{81}', '‚', 'ƒ', '„', '…', '†', '‡', 'ˆ', '‰', 'Š', '‹', 'Œ', '\u{8d}', 'Ž',
        '\u{8f}', '\u{90}', '‘', '’', '“', '”', '•', '–', '—', '˜', '™', 'š', '›', 'œ', '\u{9d}',
        'ž', 'Ÿ',
    ];
    match c {
        '\u{80}'..='\u{9f}' => WINDOWS_1252[c as usize - 0x80],
        _ => c,
    }
}

/// Latin ligatures and full-width or half-width forms become the plain characters they stand for.
fn widen(c: char) -> impl Iterator<Item = char> {
    let mut plain = Vec::with_capacity(2);
    match c {
        '\u{149}' => plain.extend(['\u{2bc}', 'n']),
        '\u{3000}' => plain.push(' '),
        // DŽ, Dž and dž keep their caron, which compatibility composition restores.
        '\u{132}' | '\u{133}' | '\u{1c4}'..='\u{1cc}' | '\u{1f1}'..='\u{1f3}' => {
            plain.extend(std::iter::once(c).nfkc());
        }
        '\u{fb05}' => plain.extend(['ſ', 't']),
        '\u{fb00}'..='\u{fb06}' | '\u{ff01}'..='\u{ffef}' => {
            decompose_compatible(c, |part| plain.push(part));
        }
        _ => plain.push(c),
    }
    plain.into_iter()
}

fn uncurl(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            '\u{2bc}' | '\u{2018}'..='\u{201b}' => '\'',
            '\u{201c}'..='\u{201f}' => '"',
            _ => c,
        })
        .collect()
}

fn fix_line_breaks(text: &str) -> String {
    text.replace("\r\n", "\n")
        .replace(['\r', '\u{2028}', '\u{2029}', '\u{85}'], "\n")
}

/// Removes `ESC [ digits-and-semicolons letter`.
fn remove_terminal_escapes(text: &str) -> String {
    let mut output = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find("\u{1b}[") {
        let (before, sequence) = rest.split_at(start);
        output.push_str(before);
        let parameters = &sequence[2..];
        let length = parameters.find(|c: char| !c.is_ascii_digit() && c != ';');
        match length.filter(|&at| parameters[at..].starts_with(|c: char| c.is_ascii_alphabetic())) {
            Some(length) => rest = &parameters[length + 1..],
            None => {
                output.push_str(&sequence[..2]);
                rest = parameters;
            }
        }
    }
    output.push_str(rest);
    output
}

fn is_removed_control(c: char) -> bool {
    matches!(
        c,
        '\0'..='\u{8}'
            | '\u{b}'
            | '\u{e}'..='\u{1f}'
            | '\u{7f}'
            | '\u{206a}'..='\u{206f}'
            | '\u{feff}'
            | '\u{fff9}'..='\u{fffc}'
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Specification `wan22`, section 4.4: hashes before and after cleaning.
    #[test]
    fn the_negative_prompt_is_the_original_one() {
        let sha256 = |text: &str| sha256_hex(text.as_bytes());
        assert_eq!(DEFAULT_NEGATIVE_PROMPT.chars().count(), 137);
        assert_eq!(
            sha256(DEFAULT_NEGATIVE_PROMPT),
            "ce96e0324e4b54ce4b6e867f669ca520952e1a34cc116543516b1897f0d3c47e"
        );
        assert_eq!(
            sha256(&clean_prompt(DEFAULT_NEGATIVE_PROMPT)),
            "42811917cca5c2c7e47e55003083c67a4f9122f03b95a1cfe8a4001ea6a2e5d3"
        );
    }

    fn sha256_hex(bytes: &[u8]) -> String {
        use sha2::Digest;
        sha2::Sha256::digest(bytes)
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }

    #[derive(serde::Deserialize)]
    struct Pair {
        input: String,
        output: String,
    }

    /// Pairs computed with ftfy 6.3.1; `scripts/parity/make.py prompt_clean`.
    #[test]
    fn equals_the_reference_on_the_golden_pairs() {
        let path = storyloom_nn::testing::golden("prompt_clean/pairs.json");
        let pairs: Vec<Pair> = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        assert!(pairs.len() >= 40);
        for Pair { input, output } in pairs {
            assert_eq!(clean_prompt(&input), output, "of {input:?}");
        }
    }

    #[derive(serde::Deserialize)]
    struct BenchPrompt {
        file: String,
        scene: usize,
        index: usize,
        sha256: String,
        changed: bool,
    }

    /// The prompts themselves are not part of the project; their hashes are.
    #[test]
    fn equals_the_reference_on_st_bench() {
        let Some(bench) = storyloom_nn::testing::st_bench() else {
            eprintln!("skipped: the ST-Bench scripts are not here");
            return;
        };
        let path = storyloom_nn::testing::golden("prompt_clean/st_bench.json");
        let prompts: Vec<BenchPrompt> =
            serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        let mut changed = 0;
        for entry in &prompts {
            let text = std::fs::read_to_string(bench.join(&entry.file)).unwrap();
            let script: serde_json::Value = serde_json::from_str(&text).unwrap();
            let prompt = &script["scenes"][entry.scene]["video_prompts"][entry.index];
            let prompt = prompt.as_str().unwrap();
            let cleaned = clean_prompt(prompt);
            assert_eq!(
                sha256_hex(cleaned.as_bytes()),
                entry.sha256,
                "{} {}",
                entry.file,
                entry.index
            );
            assert_eq!(cleaned != prompt, entry.changed);
            changed += usize::from(entry.changed);
        }
        assert_eq!((prompts.len(), changed), (300, 47));
    }

    proptest! {
        #[test]
        fn cleaning_never_panics_and_settles(text in ".{0,60}") {
            let once = clean_prompt(&text);
            prop_assert!(!once.starts_with(' ') && !once.ends_with(' ') && !once.contains("  "));
        }
    }
}
