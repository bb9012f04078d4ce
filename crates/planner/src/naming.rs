//! What a product is called, out of the title of its brief.

/// The part of a title that names the product: what stands before a colon, a dash or a bar, and of
/// that not more than eight words.
pub(crate) fn name_of(title: &str) -> &str {
    let end = [": ", " - ", " – ", " — ", " | ", ", "]
        .iter()
        .filter_map(|mark| title.find(mark))
        .min();
    let name = title[..end.unwrap_or(title.len())].trim();
    let words = name.split_whitespace().take(8);
    let last = words.last().map_or(0, |word| {
        word.as_ptr() as usize - name.as_ptr() as usize + word.len()
    });
    clipped(&name[..last], 80)
}

/// Whether a title has a word that can name a product: one of two letters, or of one that is a
/// word in languages without an alphabet.
pub fn names_a_product(title: &str) -> bool {
    let mut words = name_of(title).split(|c: char| !c.is_alphanumeric());
    words.any(|word| word.chars().count() >= 2 || !word.is_ascii())
}

/// The first characters of a text, up to the end of a word.
pub(crate) fn clipped(text: &str, most: usize) -> &str {
    let text = text.trim();
    let Some((end, _)) = text.char_indices().nth(most) else {
        return text;
    };
    let kept = &text[..end];
    kept.rfind(char::is_whitespace)
        .map_or(kept, |space| &kept[..space])
}
