//! The known names that a wrong one was most likely meant to be.

use storyloom_story::nearest;

use super::{ENDS, PREFIXES, flux, number, wan};
use crate::checkpoint::original::flux::LayerPlace;

/// The known name that is most like `name`, which is none; `None` if none is much like it.
///
/// Block number, prefix and end are taken from the name as far as they are known.
pub(in super::super) fn nearest_name(name: &str) -> Option<String> {
    let block = block_in(name);
    let prefixes = PREFIXES
        .iter()
        .filter(|(prefix, ..)| name.starts_with(prefix));
    // Of a prefix that is not known every one is tried.
    let known: Vec<_> = match prefixes.clone().any(|(prefix, ..)| !prefix.is_empty()) {
        true => prefixes.collect(),
        false => PREFIXES.iter().collect(),
    };
    let mut ends = ENDS
        .iter()
        .filter(|(end, ..)| name.ends_with(end))
        .peekable();
    let ends: Vec<&str> = match ends.peek() {
        Some(_) => ends.map(|(end, ..)| *end).collect(),
        None => ENDS.iter().map(|(end, ..)| *end).collect(),
    };
    let layers: Vec<String> = layers(block).collect();
    let names: Vec<String> = known
        .iter()
        .flat_map(|(prefix, _, separator)| {
            let written = layers.iter().map(|layer| separator.written(layer));
            let ends = &ends;
            written
                .flat_map(move |layer| ends.iter().map(move |end| format!("{prefix}{layer}{end}")))
        })
        .collect();
    let found = nearest(name, names.iter().map(String::as_str));
    found.map(str::to_owned)
}

/// The layer of a lower block that `exists`, for a layer of a block that does not.
pub(in super::super) fn nearest_layer(
    layer: &str,
    mut exists: impl FnMut(&str) -> bool,
) -> Option<String> {
    let block = block_in(layer)?;
    let number = format!(".{block}.");
    let (before, after) = layer.split_once(&number)?;
    // More blocks than this no network has.
    let lower = (0..block.min(4096)).rev();
    let mut names = lower.map(|block| format!("{before}.{block}.{after}"));
    names.find(|name| exists(name))
}

/// The first number in a name, between points or low lines.
fn block_in(name: &str) -> Option<u32> {
    name.split(['.', '_']).find_map(number)
}

/// Every layer that adapters change, in both vocabularies of both networks, in this block or in none.
fn layers(block: Option<u32>) -> impl Iterator<Item = String> {
    let both = |(original, diffusers): (String, String)| [original, diffusers];
    let wan = block
        .into_iter()
        .flat_map(wan::block_layers)
        .chain(wan::top_layers())
        .flat_map(both);
    let flux = block
        .into_iter()
        .flat_map(|block| [LayerPlace::Double(block), LayerPlace::Single(block)])
        .chain([LayerPlace::Top])
        .flat_map(flux::spellings);
    wan.chain(flux)
}
