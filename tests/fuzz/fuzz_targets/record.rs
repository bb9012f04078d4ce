//! Records of shots, of reference images and of shots that are being made.

#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use storyloom_memory::{CommitRecord, ReferencesRecord, DigestedRecord, StepCheckpoint};

fuzz_target!(|bytes: &[u8]| {
    if let Some(record) = read::<CommitRecord>(bytes) {
        assert!(!record.pictures().is_empty() && record.blobs().len() >= 2);
    }
    if let Some(record) = read::<ReferencesRecord>(bytes) {
        assert_eq!(record.blobs().len(), 2 * record.pictures.len());
    }
    if let Some(record) = read::<StepCheckpoint>(bytes) {
        assert_eq!(record.basis.difference(&record.basis.clone()), None);
    }
});

/// What has the form of a record; nearly never one with its own digest, so that it is sealed here.
fn read<R: DigestedRecord + PartialEq + std::fmt::Debug>(bytes: &[u8]) -> Option<R> {
    let path = Path::new("record.json");
    let opened = R::open(path, bytes).ok();
    let mut record: R = serde_json::from_slice(bytes).ok()?;
    let stored = record.digest_mut().clone();
    let sealed = record.seal().expect("records can be written");
    match R::open(path, &sealed) {
        Ok(again) => assert_eq!(again, record, "a sealed record is what was sealed"),
        Err(error) => assert!(error.to_string().contains("format"), "{error}"),
    }
    if opened.is_some() {
        assert_eq!(
            &stored,
            record.digest_mut(),
            "a record that opens has its own digest"
        );
    }
    Some(record)
}
