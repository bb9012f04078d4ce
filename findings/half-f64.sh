#!/usr/bin/env bash
# The crate half rounds a number of 64 bits to bfloat16 after cutting its last 32 bits off.
#
# Version: half 2.7.1 (crates.io). Needs Rust.
#
# Behaviour: x = 1 + 2^-8 + 2^-21 lies above the middle between the neighbours 1.0 and 1.0078125 of
# bfloat16. bf16::from_f64(x) is 1.0. bf16::from_f32(x as f32) is 1.0078125, although x as f32 is exactly x.
# The reason: from_f64 keeps the upper 32 bits of the number alone, where 2^-21 no longer is, takes what is
# left for the middle, and rounds that to even.
#
# Expected: both calls round to the nearest value, as IEEE 754 does and as the documentation says ("rounded
# to the nearest representable value"). Least of all should the wider type give the worse result.
#
# Why it matters: expected values of tests are gladly computed in f64 "to be exact" and turned to bfloat16
# at the end. Such a test then blames kernels that round rightly. Going by way of f32 has double rounding
# too, but only for numbers that f32 cannot hold.
#
# Seen:
#   from_f64: 1, from_f32: 1.0078125, x as f32 is x: true

. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

cargo init --quiet --vcs none --name finding .
printf 'half = "=2.7.1"\n' >>Cargo.toml
cat >src/main.rs <<'RUST'
use half::bf16;

fn main() {
    let x = 1.0 + 2f64.powi(-8) + 2f64.powi(-21);
    let (wide, narrow) = (bf16::from_f64(x), bf16::from_f32(x as f32));
    let same = f64::from(x as f32) == x;
    println!("from_f64: {wide}, from_f32: {narrow}, x as f32 is x: {same}");
}
RUST
export CARGO_TARGET_DIR="$WORK/target"
cargo run --quiet | expect 'from_f64: 1, from_f32: 1.0078125, x as f32 is x: true'
