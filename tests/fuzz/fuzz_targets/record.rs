//! Records of shots and of reference images in both formats, and of shots that are being made.

#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use storyloom_memory::ledger::record::{v1, v2};
use storyloom_memory::{DigestedRecord, References, ShotRecord, StepCheckpoint};

fuzz_target!(|bytes: &[u8]| {
    let path = Path::new("record.json");
    let first = read::<v1::CommitRecord>(bytes).map(ShotRecord::V1);
    let second = read::<v2::CommitRecord>(bytes).map(ShotRecord::V2);
    for mut record in first.into_iter().chain(second) {
        let passes = record.passes().len();
        assert!(!record.pictures().is_empty() && passes >= 1);
        assert!(record.blobs().len() >= passes);
        // A record whose method has another form is refused; any other comes back as it was.
        let sealed = record.seal().expect("records can be written");
        match ShotRecord::open(path, &sealed) {
            Ok(again) => assert_eq!(again, record),
            Err(error) => {
                let error = error.to_string();
                assert!(error.contains("form"), "{error}");
            }
        }
    }
    if let Some(record) = read::<v1::ReferencesRecord>(bytes) {
        assert_eq!(
            record.pictures.len(),
            References::V1(record.clone()).kept().len()
        );
        assert_eq!(
            References::V1(record.clone()).blobs().len(),
            2 * record.pictures.len()
        );
    }
    if let Some(record) = read::<v2::ReferencesRecord>(bytes) {
        let arrays: usize = record.items.iter().map(|item| item.arrays.len()).sum();
        assert_eq!(References::V2(record).blobs().len(), arrays);
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
