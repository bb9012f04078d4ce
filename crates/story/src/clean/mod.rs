//! Cleaning what users write of a product or a story, where it enters.
//!
//! Titles and descriptions come out of shop systems as pieces of HTML: `Lamp &amp; Shade`,
//! `<b>Tea Kettle</b><br/>2 l`. What is drawn and what is said must have neither entities nor tags.
//! Everything that is no markup stays as it was written: umlauts, quotes, emoji, and `<` where it
//! means "less than".

mod markup;

use std::borrow::Cow;

use markup::without_tags;

/// Rounds after which no tag can be meant any more: each undoes one more level of escaping.
const ROUNDS: usize = 8;

/// `text` without tags, entities and invisible characters. Text that has none of them is given
/// back as it is, with all its white space.
pub fn plain_text(text: &str) -> Cow<'_, str> {
    let cleaned = settled(text);
    if cleaned == text {
        return Cow::Borrowed(text);
    }
    Cow::Owned(tidy_spaces(&cleaned))
}

/// Cleans until nothing changes: markup may be escaped more than once, and what stands on both
/// sides of a tag may be a tag when it is gone.
fn settled(text: &str) -> String {
    let mut current = visible(text);
    for _ in 0..ROUNDS {
        let next = visible(&without_tags(&unescaped(&current)));
        if next == current {
            return current;
        }
        current = next;
    }
    // Nobody writes this by accident.
    current.replace(['<', '>', '&'], " ")
}

/// One blank between words, no blanks at the ends of lines, at most one empty line.
fn tidy_spaces(text: &str) -> String {
    let lines = text.lines().map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        words.join(" ")
    });
    let mut tidy = String::with_capacity(text.len());
    let mut breaks = 0;
    for line in lines {
        if !line.is_empty() {
            if !tidy.is_empty() {
                tidy.push_str(&"\n".repeat(breaks.min(2)));
            }
            tidy.push_str(&line);
            breaks = 0;
        }
        breaks += 1;
    }
    tidy
}

/// `text` without characters that nobody sees, and with plain line ends and blanks.
fn visible(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '\r' => {
                if rest.peek() != Some(&'\n') {
                    shown.push('\n');
                }
            }
            '\u{85}' | '\u{2028}' | '\u{2029}' => shown.push('\n'),
            '\u{a0}' => shown.push(' '),
            '\u{200c}' | '\u{200d}' => {
                let before = shown.chars().next_back();
                if before.is_some_and(is_joined) && rest.peek().copied().is_some_and(is_joined) {
                    shown.push(c);
                }
            }
            _ if is_invisible(c) => {}
            _ => shown.push(c),
        }
    }
    shown
}

/// Whether a joiner beside `c` can have a meaning: in Persian and Indian scripts and in emoji, but
/// not in Latin, Greek and Cyrillic.
fn is_joined(c: char) -> bool {
    c >= '\u{590}' && !c.is_whitespace() && !is_invisible(c) && !is_joiner(c)
}

fn is_joiner(c: char) -> bool {
    matches!(c, '\u{200c}' | '\u{200d}')
}

/// Soft hyphens, byte order marks, blanks without width and marks of direction.
fn is_invisible(c: char) -> bool {
    matches!(
        c,
        '\u{ad}'
            | '\u{61c}'
            | '\u{180e}'
            | '\u{200b}'
            | '\u{200e}'
            | '\u{200f}'
            | '\u{202a}'..='\u{202e}'
            | '\u{2060}'..='\u{2069}'
            | '\u{206a}'..='\u{206f}'
            | '\u{feff}'
            | '\u{fff9}'..='\u{fffc}'
    )
}

/// `text` with the characters that its entities stand for.
fn unescaped(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find('&') {
        plain.push_str(&rest[..start]);
        rest = &rest[start..];
        match entity(rest) {
            Some((meant, length)) => {
                plain.push_str(&meant);
                rest = &rest[length..];
            }
            None => {
                plain.push('&');
                rest = &rest[1..];
            }
        }
    }
    plain.push_str(rest);
    plain
}

/// The entity at the start of `text`: what it means, and its length in bytes.
///
/// Without a semicolon only numbers and the five names that XML has are read, and `&nbsp`:
/// addresses such as `?a=1&copy=2` stay.
fn entity(text: &str) -> Option<(String, usize)> {
    const LONGEST: usize = 40;
    const BARE: [&str; 6] = ["amp", "lt", "gt", "quot", "apos", "nbsp"];
    let name = text.strip_prefix('&')?;
    let letter = |c: char| c.is_ascii_alphanumeric() || c == '#';
    let length = name.find(|c| !letter(c)).unwrap_or(name.len());
    let (name, after) = name.split_at(length);
    if name.is_empty() || length > LONGEST {
        return None;
    }
    let closed = after.starts_with(';');
    if !closed && (after.starts_with('=') || !(BARE.contains(&name) || is_number(name))) {
        return None;
    }
    let written = format!("&{name};");
    let meant = known(&written)?;
    Some((meant, 1 + length + usize::from(closed)))
}

fn is_number(name: &str) -> bool {
    let Some(digits) = name.strip_prefix('#') else {
        return false;
    };
    match digits.strip_prefix(['x', 'X']) {
        Some(hex) => !hex.is_empty() && hex.bytes().all(|byte| byte.is_ascii_hexdigit()),
        None => !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()),
    }
}

/// What `&name;` means. `&AUML;`, which means nothing, is read as `&Auml;` and `&EACUTE;` as `&Eacute;`:
/// shop systems shout.
fn known(written: &str) -> Option<String> {
    // Legacy names are also found at the start of longer ones, of which something is left.
    let is_whole = |meant: &str| meant == ";" || !meant.ends_with(';');
    let meant = htmlize::unescape(written);
    if meant != written && is_whole(&meant) {
        return Some(meant.into_owned());
    }
    if written.bytes().any(|byte| byte.is_ascii_lowercase()) {
        return None;
    }
    let small = written.to_ascii_lowercase();
    let meant = htmlize::unescape(small.as_str());
    (meant != small && is_whole(&meant)).then(|| meant.to_uppercase())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn cleaned(pairs: &[(&str, &str)]) {
        for (written, meant) in pairs {
            assert_eq!(plain_text(written), *meant, "of {written:?}");
        }
    }

    #[test]
    fn entities_are_letters_however_often_they_were_escaped() {
        cleaned(&[
            ("Lamp &amp; Shade &#39;Noor&#39;", "Lamp & Shade 'Noor'"),
            ("Lamp &amp;amp;amp; Shade", "Lamp & Shade"),
            ("A &amp;lt;b&amp;gt;mug&amp;lt;/b&amp;gt;", "A mug"),
            (
                "Caf&eacute; &#xE9; &#233; &Uuml;ber &EACUTE;",
                "Café é é Über É",
            ),
            (
                "&ldquo;Krug&rdquo;&nbsp;2&nbsp;l &euro;5 &#128512;",
                "“Krug” 2 l €5 😀",
            ),
            ("Lamp &amp Shade, 5 &lt 6", "Lamp & Shade, 5 < 6"),
            (
                "R&D, AT&T; a&b &nosuch; ?a=1&copy=2&lt=3",
                "R&D, AT&T; a&b &nosuch; ?a=1&copy=2&lt=3",
            ),
        ]);
    }

    #[test]
    fn tags_are_no_words_and_block_tags_separate_words() {
        cleaned(&[
            ("<b>Tea Kettle</b><br/>2 l", "Tea Kettle 2 l"),
            (
                "<ul><li>boils in <em>two</em> minutes</li><li>quiet</li></ul>",
                "boils in two minutes quiet",
            ),
            ("H<sub>2</sub>O<p class=\"x\">Next</P>", "H2O Next"),
            (
                "<a href='http://x/?a>b' target=_blank>Shop</a><BR >now",
                "Shop now",
            ),
            (
                "<script type=\"a\">if (a<b) { x() }</script>Mug<style>p { }</style>",
                "Mug",
            ),
            (
                "A<!-- hidden > note -->B <![CDATA[<b>C</b> & D]]> E",
                "AB C & D E",
            ),
            (
                "<!DOCTYPE html><?xml version=\"1.0\"?><g:title>Mug</g:title>",
                "Mug",
            ),
            ("Mug <a href=\"http://shop.example/a", "Mug"),
            ("Mug<img src=x><input disabled>cup", "Mug cup"),
            ("<<b>b>Mug<</b>/b>", "Mug"),
        ]);
    }

    #[test]
    fn what_is_no_markup_stays() {
        for text in [
            "Süßer „Krug“ 🎁",
            "1 < 2, 3 > 2, a<5, <3, x <- y",
            "if a<b and c>d then",
            "for  two   blanks\nand\n\n\nlines ",
            "a < b & c > d; e <",
            "👩\u{200d}🍳 می\u{200c}خواهم",
        ] {
            assert!(
                matches!(plain_text(text), Cow::Borrowed(_)),
                "{text:?} became {:?}",
                plain_text(text)
            );
        }
    }

    #[test]
    fn what_nobody_sees_is_left_out() {
        cleaned(&[
            (
                "Tea\u{200b} Ket\u{ad}tle\u{feff}\u{2060}\u{202e}",
                "Tea Kettle",
            ),
            ("a\u{200d}b c\u{200c}", "ab c"),
            (
                "one\r\ntwo\rthree\u{2028}four\u{a0}l",
                "one\ntwo\nthree\nfour l",
            ),
            ("<b> </b>&nbsp;&#8203;", ""),
        ]);
    }

    proptest! {
        #[test]
        fn no_tag_is_left_and_nothing_grows(
            text in "([<>&/;!=# \n\"'-]|b|p|br|script|style|a href|lt|gt|amp|#39|\\[CDATA\\[|\\]\\]|é|🎁|\u{200d}){0,24}"
        ) {
            let clean = plain_text(&text);
            prop_assert!(clean.chars().count() <= text.chars().count());
            prop_assert_eq!(without_tags(&clean), clean.as_ref());
            prop_assert_eq!(plain_text(&clean), clean.as_ref());
        }

        #[test]
        fn any_text_is_cleaned_once(text in ".{0,80}") {
            let clean = plain_text(&text).into_owned();
            prop_assert_eq!(plain_text(&clean), clean.as_str());
        }
    }
}
