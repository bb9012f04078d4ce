//! What decides the numbers of a method, as a digest.
//!
//! StoryMem, the first one, has a text of its own, which runs of all builds carry. All other methods
//! write this form.

use std::collections::BTreeMap;

/// Settings that decide the numbers, by names that never change.
pub type Decisive = BTreeMap<&'static str, String>;

/// Digest of components and settings: blake3 over a line `name=digest` for each component, in the
/// order in which they were given, and a line `key=value` for each setting, sorted by key. A setting
/// that came later is left out where it is what earlier builds did.
pub fn fingerprint(components: &[(String, String)], settings: &Decisive) -> String {
    let mut hasher = blake3::Hasher::new();
    let components = components
        .iter()
        .map(|(name, value)| (name.as_str(), value));
    let settings = settings.iter().map(|(key, value)| (*key, value));
    for (name, value) in components.chain(settings) {
        hasher.update(format!("{name}={value}\n").as_bytes());
    }
    hasher.finalize().to_hex().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_is_a_line_for_each_setting_in_their_order() {
        let components = [("vae".to_owned(), "0123".to_owned())];
        let settings = Decisive::from([("steps", "40".to_owned()), ("shift", "3.0".to_owned())]);
        let text = "vae=0123\nshift=3.0\nsteps=40\n";
        let digest = blake3::hash(text.as_bytes()).to_hex().to_string();
        assert_eq!(fingerprint(&components, &settings), digest);
    }
}
