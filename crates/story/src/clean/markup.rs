//! Finding tags, comments and other markup in what may be plain text.

/// Elements inside a word: what stands on both sides of their tags belongs together.
const INLINE: [&str; 39] = [
    "a", "abbr", "acronym", "b", "bdi", "bdo", "big", "cite", "code", "data", "del", "dfn", "em",
    "font", "i", "ins", "kbd", "label", "mark", "nobr", "output", "q", "rp", "rt", "ruby", "s",
    "samp", "small", "span", "strike", "strong", "sub", "sup", "time", "tt", "u", "var", "wbr",
    "blink",
];

/// Elements whose content is for machines.
const UNREAD: [&str; 2] = ["script", "style"];

/// Attributes that need no value.
const FLAGS: [&str; 17] = [
    "async",
    "autofocus",
    "autoplay",
    "checked",
    "compact",
    "controls",
    "defer",
    "disabled",
    "hidden",
    "itemscope",
    "loop",
    "multiple",
    "muted",
    "nowrap",
    "readonly",
    "required",
    "reversed",
];

/// A piece of markup at the start of a text.
#[derive(Debug, PartialEq, Eq)]
struct Markup {
    /// Its length in bytes.
    length: usize,
    /// What stands for it.
    becomes: Stand,
}

/// What stands for a piece of markup.
#[derive(Debug, PartialEq, Eq)]
enum Stand {
    /// Nothing: the text goes on.
    Nothing,
    /// A blank: another word begins.
    Blank,
    /// The number of bytes from its start: text that was only wrapped.
    Content { start: usize, end: usize },
}

/// `text` without tags, comments, declarations, and without the content of scripts and styles.
pub(super) fn without_tags(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find('<') {
        plain.push_str(&rest[..start]);
        rest = &rest[start..];
        let Some(Markup { length, becomes }) = markup(rest) else {
            plain.push('<');
            rest = &rest[1..];
            continue;
        };
        match becomes {
            Stand::Nothing => {}
            Stand::Blank => plain.push(' '),
            Stand::Content { start, end } => plain.push_str(&rest[start..end]),
        }
        rest = &rest[length..];
    }
    plain.push_str(rest);
    plain
}

/// The markup that `text` begins with; `None` where its `<` is no more than a character.
fn markup(text: &str) -> Option<Markup> {
    if let Some(content) = text.strip_prefix("<!--") {
        return Some(wrapped(text, "<!--", content.find("-->"), 3, false));
    }
    const CDATA: &str = "<![CDATA[";
    if let Some(content) = text.strip_prefix(CDATA) {
        return Some(wrapped(text, CDATA, content.find("]]>"), 3, true));
    }
    if let Some(declared) = text.strip_prefix("<!").or_else(|| text.strip_prefix("<?"))
        && declared.starts_with(|c: char| c.is_ascii_alphabetic())
    {
        let length = text.find('>')? + 1;
        let becomes = Stand::Blank;
        return Some(Markup { length, becomes });
    }
    tag(text)
}

/// A piece that goes from `opening` to the end that was found, or else to that of the text.
fn wrapped(text: &str, opening: &str, end: Option<usize>, closing: usize, kept: bool) -> Markup {
    let start = opening.len();
    let (end, length) = match end {
        Some(end) => (start + end, start + end + closing),
        None => (text.len(), text.len()),
    };
    let becomes = match kept {
        true => Stand::Content { start, end },
        false => Stand::Nothing,
    };
    Markup { length, becomes }
}

/// An opening or closing tag, and the whole element where nobody is to read its content.
fn tag(text: &str) -> Option<Markup> {
    let inner = &text[1..];
    let (closes, inner) = match inner.strip_prefix('/') {
        Some(inner) => (true, inner),
        None => (false, inner),
    };
    if !inner.starts_with(|c: char| c.is_ascii_alphabetic()) {
        return None;
    }
    let letter = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | ':' | '_');
    let end = inner.find(|c| !letter(c)).unwrap_or(inner.len());
    let (name, attributes) = inner.split_at(end);
    let name = name.to_ascii_lowercase();
    let length = text.len() - after_attributes(attributes)?.len();
    if !closes && UNREAD.contains(&name.as_str()) && !text[..length].ends_with("/>") {
        let length = length + unread_content(&text[length..], &name);
        let becomes = Stand::Blank;
        return Some(Markup { length, becomes });
    }
    let becomes = match INLINE.contains(&name.as_str()) {
        true => Stand::Nothing,
        false => Stand::Blank,
    };
    Some(Markup { length, becomes })
}

/// What follows a tag, given what follows its name; `None` if this is no tag.
///
/// In "if a<b and c>d" no tag is meant: attributes have values, or are known to need none. A text
/// that was cut inside a tag ends in one, if an attribute with a value has begun.
fn after_attributes(mut text: &str) -> Option<&str> {
    let mut has_value = false;
    loop {
        let rest = text.trim_start();
        let parted = rest.len() < text.len();
        if rest.is_empty() {
            return has_value.then_some(rest);
        }
        let closing = rest.strip_prefix('/').map_or(rest, str::trim_start);
        if let Some(after) = closing.strip_prefix('>') {
            return Some(after);
        }
        let end = rest
            .find(|c: char| c.is_whitespace() || matches!(c, '=' | '>' | '<' | '/' | '"' | '\''));
        let (name, after) = rest.split_at(end.unwrap_or(rest.len()));
        if name.is_empty() || !(parted || has_value) {
            return None;
        }
        match after.trim_start().strip_prefix('=') {
            Some(value) => {
                has_value = true;
                text = after_value(value.trim_start());
            }
            None if FLAGS.contains(&name.to_ascii_lowercase().as_str()) => text = after,
            None => return None,
        }
    }
}

/// What follows the value of an attribute: quoted, or up to a blank or the end of the tag.
fn after_value(text: &str) -> &str {
    for quote in ['"', '\''] {
        if let Some(value) = text.strip_prefix(quote) {
            return value.split_once(quote).map_or("", |(_, after)| after);
        }
    }
    let end = text.find(|c: char| c.is_whitespace() || c == '>');
    &text[end.unwrap_or(text.len())..]
}

/// The length of what nobody is to read, with the closing tag of `name`.
fn unread_content(text: &str, name: &str) -> usize {
    let closings = text.match_indices("</").map(|(start, _)| start);
    let mut closings = closings.filter(|start| {
        let found = text.get(start + 2..start + 2 + name.len());
        found.is_some_and(|found| found.eq_ignore_ascii_case(name))
    });
    let Some(start) = closings.next() else {
        return text.len();
    };
    let end = text[start..].find('>').map(|end| start + end + 1);
    end.unwrap_or(text.len())
}
