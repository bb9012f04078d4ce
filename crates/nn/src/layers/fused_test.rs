//! Tests of `fused.rs`.

use super::super::{
    LayerNorm, RmsNorm, RotaryAxes, TokenIndex, add_gated as gated_residual, modulated_layer_norm,
};
use super::*;
use crate::stand_in::as_gpu;
use crate::testing::{cosines, relative_error, weights_of};

const BATCH: i64 = 2;
const TOKENS: i64 = 6;
const HEADS: i64 = 3;
const DIM: i64 = 24;
const WIDTH: i64 = HEADS * DIM;
const KINDS: [Kind; 2] = [Kind::Float, Kind::BFloat16];

/// What rounding alone may change.
fn tolerance(kind: Kind) -> f64 {
    match kind {
        Kind::BFloat16 => 4e-3,
        _ => 1e-6,
    }
}

/// Does `work` with the kernels and without, and compares.
#[track_caller]
fn agrees(what: &str, kind: Kind, work: impl Fn() -> Result<Tensor>) {
    let Some([found, expected]) = as_gpu(|| {
        assert!(stand_in::runner().is_some());
        [work().unwrap(), without_kernels(&work).unwrap()]
    }) else {
        return;
    };
    assert_eq!(found.kind(), expected.kind(), "{what}");
    assert_eq!(found.kind(), kind, "{what}");
    assert_eq!(found.size(), expected.size(), "{what}");
    let error = relative_error(&found, &expected);
    assert!(error < tolerance(kind), "{what}: off by {error:e}");
}

fn activation(phase: f64, kind: Kind) -> Tensor {
    (cosines(&[BATCH, TOKENS, WIDTH], phase) * 2.0 + 0.4).to_kind(kind)
}

fn index() -> TokenIndex {
    let rows = (0..BATCH * TOKENS).map(|token| token * 2 % 3).collect();
    TokenIndex::new(rows, 3, Device::Cpu).unwrap()
}

fn vectors(phase: f64, index: Option<&TokenIndex>) -> TokenVectors<'_> {
    let rows = if index.is_some() { 3 } else { BATCH };
    TokenVectors {
        rows: cosines(&[rows, WIDTH], phase),
        index,
    }
}

#[test]
fn modulation_by_a_kernel_is_that_of_the_composition() {
    let index = index();
    for index in [None, Some(&index)] {
        let (scale, shift) = (vectors(0.2, index), vectors(0.9, index));
        for (from, to) in [(0, 0), (0, 1), (1, 0), (1, 1)].map(|(a, b)| (KINDS[a], KINDS[b])) {
            let input = activation(0.3, from);
            agrees("modulation", to, || {
                modulated_layer_norm(&input, 1e-6, &scale, &shift, to)
            });
        }
    }
}

#[test]
fn learned_layer_norms_are_modulations() {
    let (weight, bias) = (cosines(&[WIDTH], 0.5) + 1.5, cosines(&[WIDTH], 0.7));
    let norm = weights_of(&[("weight", &weight), ("bias", &bias)], |weights| {
        LayerNorm::load(weights, WIDTH, 1e-6)
    });
    for kind in KINDS {
        let input = activation(0.1, Kind::Float);
        agrees("layer norm", kind, || norm.forward_to(&input, kind));
    }
}

#[test]
fn gates_by_a_kernel_are_those_of_the_composition() {
    let index = index();
    for index in [None, Some(&index)] {
        let gate = vectors(0.6, index);
        for kind in KINDS {
            let value = activation(0.8, kind);
            agrees("gate", Kind::Float, || {
                gated_residual(activation(0.5, Kind::Float), &value, &gate)
            });
        }
    }
}

#[test]
fn heads_by_a_kernel_are_those_of_the_composition() {
    let weight = cosines(&[WIDTH], 0.1) + 1.5;
    let norm = weights_of(&[("weight", &weight)], |weights| {
        RmsNorm::load(weights, WIDTH, 1e-6)
    });
    let table = RotaryAxes::of_head(DIM).table(&[-3, 0], 1, 3, Device::Cpu);
    let table = table.unwrap();
    let factors = cosines(&[BATCH, TOKENS], 0.3) + 1.2;
    for kind in KINDS {
        let input = activation(0.2, kind);
        agrees("squares", Kind::Float, || norm.squares(&input));
        for rotary in [None, Some(&table)] {
            for factors in [None, Some(&factors)] {
                agrees("heads", kind, || {
                    norm.forward_heads(&input, factors, HEADS, rotary)
                });
            }
        }
    }
}

#[test]
fn rows_are_spread_by_a_kernel() {
    let (index, table) = (index(), cosines(&[WIDTH], 0.4));
    let rows = vectors(0.2, Some(&index));
    for kind in KINDS {
        let spread = |runner| spread_rows(runner, &rows, &table, [BATCH, TOKENS], kind);
        let Some(found) = as_gpu(|| spread(stand_in::runner().unwrap()).unwrap()) else {
            return;
        };
        let expected = rows.broadcast(BATCH).unwrap() + &table;
        let error = relative_error(&found, &expected);
        assert!(error < tolerance(kind), "off by {error:e}");
    }
}

/// The kernels follow pointers: what does not fit must not get there.
#[test]
fn tensors_that_do_not_fit_are_refused() {
    let input = activation(0.2, Kind::Float);
    let rows = |rows: i64, width: i64| TokenVectors {
        rows: cosines(&[rows, width], 0.3),
        index: None,
    };
    let modulation = |scale: &TokenVectors, shift: &TokenVectors| {
        modulated_layer_norm(&input, 1e-6, scale, shift, Kind::Float).is_err()
    };
    let index = index();
    let indexed = vectors(0.3, Some(&index));
    let few = TokenVectors {
        rows: cosines(&[2, WIDTH], 0.3),
        index: Some(&index),
    };
    let short = TokenIndex::new(vec![0; 4], 3, Device::Cpu).unwrap();
    let short = vectors(0.3, Some(&short));
    let played = as_gpu(|| {
        let fits = rows(BATCH, WIDTH);
        assert!(!modulation(&fits, &fits));
        assert!(modulation(&fits, &rows(1, WIDTH)));
        assert!(modulation(&rows(BATCH, WIDTH - 1), &fits));
        assert!(modulation(&fits, &indexed));
        assert!(modulation(&few, &few));
        assert!(modulation(&short, &short));
        let narrow = input.narrow(1, 0, 3);
        assert!(gated_residual(input.copy(), &narrow, &fits).is_err());
    });
    if played.is_some() {
        assert!(TokenIndex::new(vec![0, 3], 3, Device::Cpu).is_err());
        assert!(TokenIndex::new(vec![-1], 3, Device::Cpu).is_err());
    }
}

#[test]
fn there_are_kernels_for_gpus_only() {
    let input = activation(0.2, Kind::Float);
    assert!(kernels(&input).is_none());
    assert!(kernel_state(Device::Cpu).is_err());
    as_gpu(|| {
        assert!(kernels(&input).is_some());
        assert!(kernels(&input.to_kind(Kind::Half)).is_none());
        assert!(without_kernels(|| kernels(&input).is_none()));
        assert!(kernels(&input).is_some());
    });
    assert!(crate::host::is_host(Device::Cpu));
}
