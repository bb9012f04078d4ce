//! Files of weights: the header, and the tensors that it names.

#![no_main]

#[path = "common/file.rs"]
mod file;

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use storyloom_nn::checkpoint::Checkpoint;
use storyloom_nn::tensor_file::read_tensors;

fuzz_target!(|bytes: &[u8]| {
    let path = file::of(bytes);
    let folder = Path::new("/nowhere");
    let Ok(file) = Checkpoint::from_files(folder, serde_json::Value::Null, &[path.clone()]) else {
        return;
    };
    assert!(file.bytes() <= bytes.len());
    file.metadata().expect("the header was read before");
    file.digest().expect("tensors lie inside of their file");
    file.stamps().expect("the file is open");
    // What lies in the file in another way than libtorch wants it is an error.
    let _ = read_tensors(&path);
});
