//! The seal of a file of the run folder: a digest over all that it says, so that nothing in it can be
//! removed, renamed or changed without being found.
//!
//! The seal is the key `digest`: blake3, in hexadecimal, over the file as JSON without this key, in the
//! [canonical form](canonical). Files of earlier builds have none.

use serde::Serialize;
use serde_json::{Map, Value};

/// The key that holds the digest.
const DIGEST: &str = "digest";

/// What the seal of a file says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Seal {
    /// There is none.
    None,
    /// The file is as it was written.
    Whole,
    /// The file was changed after it was written.
    Broken,
}

/// That a file carries no seal, in the words of its reader.
pub(crate) const NO_SEAL: &str = "missing field `digest`";

/// Takes the seal off the file and says what it says of the rest.
pub(crate) fn take_seal(file: &mut Map<String, Value>) -> Seal {
    match file.remove(DIGEST) {
        None => Seal::None,
        Some(Value::String(digest)) if digest == digest_of(file) => Seal::Whole,
        Some(_) => Seal::Broken,
    }
}

/// Puts the seal on a file, over whatever seal it has: for programs that change one on purpose.
pub fn seal(file: &mut Map<String, Value>) {
    file.remove(DIGEST);
    file.insert(DIGEST.to_owned(), digest_of(file).into());
}

/// The digest of an object that has no key `digest`.
fn digest_of(object: &Map<String, Value>) -> String {
    let mut hasher = blake3::Hasher::new();
    hash_object(object, &mut hasher);
    hasher.finalize().to_hex().to_string()
}

/// Puts the seal into the text of a file: an object, as `serde_json` writes it over several lines.
pub(crate) fn put_seal(text: &mut Vec<u8>) -> serde_json::Result<()> {
    // The digest is over what a reader finds, whose numbers are those of the text.
    let object: Map<String, Value> = serde_json::from_slice(text)?;
    let digest = digest_of(&object);
    text.truncate(text.trim_ascii_end().len().saturating_sub(1));
    text.truncate(text.trim_ascii_end().len());
    let comma = if object.is_empty() { "" } else { "," };
    text.extend(format!("{comma}\n  \"{DIGEST}\": \"{digest}\"\n}}\n").bytes());
    Ok(())
}

/// Hashes the canonical form of a value: no blanks, the keys of objects sorted by their bytes, texts and
/// numbers as `serde_json` writes them.
fn canonical(value: &Value, hasher: &mut blake3::Hasher) {
    match value {
        Value::Object(object) => hash_object(object, hasher),
        Value::Array(items) => {
            hasher.update(b"[");
            for (place, item) in items.iter().enumerate() {
                if place > 0 {
                    hasher.update(b",");
                }
                canonical(item, hasher);
            }
            hasher.update(b"]");
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => scalar(value, hasher),
    }
}

fn hash_object(object: &Map<String, Value>, hasher: &mut blake3::Hasher) {
    let mut entries: Vec<(&String, &Value)> = object.iter().collect();
    entries.sort_by_key(|(key, _)| *key);
    hasher.update(b"{");
    for (place, (key, value)) in entries.into_iter().enumerate() {
        if place > 0 {
            hasher.update(b",");
        }
        scalar(key, hasher);
        hasher.update(b":");
        canonical(value, hasher);
    }
    hasher.update(b"}");
}

fn scalar(value: &impl Serialize, hasher: &mut blake3::Hasher) {
    // Plain data into a hasher: this does not fail.
    let _ = serde_json::to_writer(hasher, value);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn object(value: Value) -> Map<String, Value> {
        match value {
            Value::Object(object) => object,
            other => panic!("{other} is no object"),
        }
    }

    fn sealed(value: &Value) -> Vec<u8> {
        let mut text = serde_json::to_vec_pretty(value).unwrap();
        text.push(b'\n');
        put_seal(&mut text).unwrap();
        text
    }

    /// Folders name this digest: it must never become another one.
    #[test]
    fn the_digest_of_a_file_is_pinned() {
        let file = object(json!({"b": [1, 0.9, -2.5e-8, true, null], "a": {"ü\n": "x", "d": {}}}));
        let text = "{\"a\":{\"d\":{},\"ü\\n\":\"x\"},\"b\":[1,0.9,-2.5e-8,true,null]}";
        let digest = blake3::hash(text.as_bytes()).to_hex().to_string();
        assert_eq!(digest_of(&file), digest);
        assert_eq!(
            digest_of(&object(json!({"a": 1}))),
            "d59b6562d7c9b121bc9760873d787890ef4d429aad33a70b405baa0fa08a1f53"
        );
    }

    #[test]
    fn a_seal_holds_until_something_is_changed() {
        for file in [json!({}), json!({"format": 1, "list": [{"a": 0.1}]})] {
            let text = sealed(&file);
            let mut read = object(serde_json::from_slice(&text).unwrap());
            assert_eq!(take_seal(&mut read.clone()), Seal::Whole);
            read.insert("more".to_owned(), Value::Null);
            assert_eq!(take_seal(&mut read), Seal::Broken);
            assert_eq!(take_seal(&mut read), Seal::None);
        }
    }

    proptest! {
        /// Numbers of single precision have other digits once they are read.
        #[test]
        fn any_numbers_are_sealed(single in any::<f32>(), double in any::<f64>(), whole in any::<u64>()) {
            #[derive(Serialize)]
            struct File { single: f32, double: f64, whole: u64 }
            let mut text = serde_json::to_vec_pretty(&File { single, double, whole }).unwrap();
            put_seal(&mut text).unwrap();
            let mut read = object(serde_json::from_slice(&text).unwrap());
            prop_assert_eq!(take_seal(&mut read), Seal::Whole);
        }
    }
}
