//! Mistakes that have one right answer are mended without asking a model again.

use storyloom_story::Brief;

use crate::naming::clipped;
use crate::schema::{Bounds, Draft};

/// Mends what can be mended, and says what that was. What is left is for [`check`](super::check).
pub fn mend(draft: &mut Draft, brief: &Brief, bounds: &Bounds) -> Vec<String> {
    let mut done = Vec::new();
    let mut note = |what: String| done.push(what);
    for text in [&mut draft.title, &mut draft.overview] {
        *text = on_one_line(text);
    }
    // The form is asked for without these bounds: grammars of some servers cannot keep them.
    let own = brief.title.as_deref().map(on_one_line);
    if own.as_deref() != Some(draft.title.as_str()) && shorten(&mut draft.title, Bounds::TITLE) {
        note("shortened the title of the story".to_owned());
    }
    if shorten(&mut draft.overview, bounds.prompt) {
        note("shortened the overview".to_owned());
    }
    if draft.title.is_empty() {
        draft.title = brief.title.clone().unwrap_or_else(|| brief.id.to_string());
        note("gave the story a title".to_owned());
    }
    if let Some(product) = &mut draft.product {
        *product = on_one_line(product);
        shorten(product, Bounds::TITLE);
    }
    if let Some(first) = draft.shots.first_mut().filter(|shot| !shot.cut) {
        first.cut = true;
        note("made the first shot open with a cut".to_owned());
    }
    for (shot, number) in draft.shots.iter_mut().zip(1..) {
        for text in [&mut shot.prompt, &mut shot.keyframe] {
            *text = on_one_line(text);
            if let Some(shorter) = shortened(text, bounds.prompt as usize) {
                *text = shorter;
                note(format!("left out the last sentences of shot {number}"));
            }
        }
    }
    done
}

/// Keeps the first sentences, or words, of a text of more than `most` characters; false if it has
/// fewer.
fn shorten(text: &mut String, most: u32) -> bool {
    let most = most as usize;
    if text.chars().count() <= most {
        return false;
    }
    *text = shortened(text, most).unwrap_or_else(|| clipped(text, most).to_owned());
    true
}

/// Text without line breaks, control characters and doubled spaces.
fn on_one_line(text: &str) -> String {
    let spaced = text.replace(char::is_control, " ");
    spaced.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A text beyond `most` characters without its last sentences, if half of it or more is left.
fn shortened(text: &str, most: usize) -> Option<String> {
    let end = text.char_indices().nth(most).map(|(end, _)| end)?;
    let kept = &text[..end];
    let sentence = kept.rfind(['.', '!', '?', '。', '！', '？'])?;
    let after = sentence + kept[sentence..].chars().next().map_or(0, char::len_utf8);
    // A point inside a number or a name is not the end of a sentence.
    let ends = text[after..].starts_with(|c: char| c.is_whitespace())
        || !kept[sentence..].starts_with('.');
    (ends && kept[..after].chars().count() * 2 >= most).then(|| kept[..after].to_owned())
}

#[cfg(test)]
mod tests {
    use storyloom_story::StoryId;

    use super::*;
    use crate::schema::DraftShot;

    #[test]
    fn what_has_one_answer_is_mended() {
        let brief = Brief::new(StoryId::new("an-ad").unwrap());
        let bounds = Bounds {
            shots: 1,
            prompt: 40,
            product: true,
        };
        let mut draft = Draft {
            title: " \n".to_owned(),
            overview: "Two\nlines.".to_owned(),
            product: Some(" a\tcup ".to_owned()),
            shots: vec![DraftShot {
                scene: 1,
                cut: false,
                prompt: "The cup stands in the sun. It is very warm and bright there.".to_owned(),
                keyframe: "A cup\n\nin the  sun, from above.".to_owned(),
            }],
        };
        let done = mend(&mut draft, &brief, &bounds);
        assert_eq!(done.len(), 3, "{done:?}");
        assert_eq!(draft.title, "an-ad");
        assert_eq!(draft.overview, "Two lines.");
        assert_eq!(draft.product.as_deref(), Some("a cup"));
        let shot = &draft.shots[0];
        assert!(shot.cut);
        assert_eq!(shot.prompt, "The cup stands in the sun.");
        assert_eq!(shot.keyframe, "A cup in the sun, from above.");
        assert_eq!(mend(&mut draft, &brief, &bounds), [""; 0]);
    }

    #[test]
    fn titles_and_overviews_are_kept_short_and_a_brief_keeps_its_own() {
        let long = "A word and a word. ".repeat(20).trim().to_owned();
        let brief = Brief {
            title: Some(long.clone()),
            ..Brief::new(StoryId::new("an-ad").unwrap())
        };
        let bounds = Bounds {
            shots: 0,
            prompt: 100,
            product: true,
        };
        let mut draft = Draft {
            title: long.clone(),
            overview: long.clone(),
            product: Some("word ".repeat(90)),
            shots: Vec::new(),
        };
        assert_eq!(
            mend(&mut draft, &brief, &bounds),
            ["shortened the overview"]
        );
        assert_eq!(draft.title, long);
        assert!(draft.overview.ends_with("a word.") && draft.overview.len() <= 100);
        let product = draft.product.clone().unwrap();
        assert!(
            product.len() <= 120 && product.ends_with("word"),
            "{product}"
        );
        draft.title = "An endless title ".repeat(20);
        assert_eq!(mend(&mut draft, &brief, &bounds).len(), 1);
        assert!(draft.title.len() <= 120 && draft.title.ends_with("title"));
        assert_eq!(mend(&mut draft, &brief, &bounds), [""; 0]);
    }

    #[test]
    fn a_text_is_not_cut_inside_a_sentence() {
        assert_eq!(shortened("short.", 40), None);
        assert_eq!(shortened(&"word ".repeat(20), 40), None);
        assert_eq!(
            shortened("No. And then a very long sentence that goes on and on", 40),
            None
        );
        assert_eq!(
            shortened("It costs more than one expects: 3.50 dollars at noon", 34),
            None
        );
    }
}
