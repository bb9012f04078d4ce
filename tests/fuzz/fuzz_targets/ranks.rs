//! What ranks hear of each other: greetings and proofs of who may be a stranger, and messages of who
//! may be damaged.

#![no_main]

use libfuzzer_sys::fuzz_target;
use storyloom_parallel::fuzzing;

fuzz_target!(|bytes: &[u8]| {
    fuzzing::read_messages(bytes);
    fuzzing::receive(bytes);
    fuzzing::call(bytes);
});
