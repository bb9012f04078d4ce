//! Arrays and frames of blobs.

#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use storyloom_memory::arrays::{
    decode_array, decode_arrays, decode_frames, encode_array, encode_arrays, encode_frames,
};

fuzz_target!(|bytes: &[u8]| {
    let path = Path::new("blob");
    if let Ok(array) = decode_array(path, bytes) {
        let written = encode_array(&array).expect("arrays can be written");
        let again = decode_array(path, &written).expect("what was read can be read again");
        assert_eq!(again.shape(), array.shape());
    }
    if let Ok(arrays) = decode_arrays(path, bytes) {
        let written = encode_arrays(&arrays).expect("arrays can be written");
        let again = decode_arrays(path, &written).expect("what was read can be read again");
        assert!(again.keys().eq(arrays.keys()));
    }
    if let Ok(frames) = decode_frames(path, bytes) {
        let written = encode_frames(&frames).expect("frames can be written");
        let again = decode_frames(path, &written).expect("what was read can be read again");
        assert_eq!(again, frames);
    }
});
