//! Parity with the composition in Python of `scripts/parity/onestory.py`, which was written from the paper and
//! not from this code.

use std::collections::BTreeMap;

use storyloom_nn::shard::Shard;
use storyloom_nn::testing::{golden, golden_tensors, on_ranks, relative_error};
use storyloom_parallel::topology::Degrees;
use storyloom_story::onestory::{Budget, ChosenFrame, ContextTime, Counts, Kernel, Plane, choose};
use tch::{Kind, Tensor};

use super::*;
use crate::goldens::assert_close;
use crate::wan::{AppendedTokens, ForwardInputs, WanTransformer};

const CPU: Target = Target::CPU_F32;
const TOLERANCE: f64 = 1e-5;

/// The tensors of `io.safetensors` of a case.
type Stored = BTreeMap<String, Tensor>;

fn open(case: &str) -> (OneStoryMemory, Stored) {
    let memory = OneStoryMemory::open(&golden(case).join(FOLDER), CPU).unwrap();
    (memory, golden_tensors(case, "io.safetensors"))
}

/// The shots `[1, channels, frames, h, w]` that are stored under `{prefix}history.{number}`.
fn history(stored: &Stored, prefix: &str) -> Vec<Tensor> {
    (0..)
        .map_while(|shot| stored.get(&format!("{prefix}history.{shot}")))
        .map(|shot| shot.unsqueeze(0))
        .collect()
}

fn plane(history: &[Tensor]) -> Plane {
    let (_, _, _, rows, columns) = history[0].size5().unwrap();
    [rows, columns].map(|side| u32::try_from(side).unwrap())
}

/// The choice that is stored as pairs of a frame and the side of its kernel.
fn stored_choice(pairs: &Tensor) -> Vec<(i64, i64)> {
    let pairs: Vec<Vec<i64>> = pairs.try_into().unwrap();
    pairs.iter().map(|pair| (pair[0], pair[1])).collect()
}

fn choice(chosen: &[ChosenFrame]) -> Vec<(i64, i64)> {
    let pair = |chosen: &ChosenFrame| (chosen.frame as i64, i64::from(chosen.kernel.side()));
    chosen.iter().map(pair).collect()
}

fn floats(scores: &Tensor) -> Vec<f32> {
    Vec::try_from(scores.flatten(0, -1)).unwrap()
}

/// Context tokens `[1, n, width]` of the chosen frames.
fn context(memory: &OneStoryMemory, history: &[Tensor], chosen: &[ChosenFrame]) -> Tensor {
    let all = Tensor::cat(history, 2);
    let frames: Vec<Tensor> = chosen
        .iter()
        .map(|chosen| all.select(2, chosen.frame as i64).squeeze_dim(0))
        .collect();
    memory.patchifiers.forward(chosen, &frames).unwrap()
}

/// The histories and captions of the case of the selector.
const ASKED: [(&str, &str); 4] = [
    ("even", "first"),
    ("even", "second"),
    ("odd", "first"),
    ("odd", "second"),
];

fn scores(selector: &Selector, stored: &Stored, (planes, caption): (&str, &str)) -> Tensor {
    let text = stored[&format!("caption.{caption}")].unsqueeze(0);
    let history = history(stored, &format!("{planes}."));
    selector.forward(&text, &history).unwrap().squeeze_dim(0)
}

#[test]
fn scores_are_those_of_the_composition() {
    for (norm, name) in [
        (ScoreNorm::Cosine, "cosine"),
        (ScoreNorm::ScaledDot, "scaled_dot"),
        (ScoreNorm::None, "none"),
    ] {
        let (memory, stored) = open("onestory-selector");
        let selector = memory.selector.scored_by(norm);
        for asked in ASKED {
            let key = format!("{}.{}.{name}", asked.0, asked.1);
            let found = scores(&selector, &stored, asked);
            assert_close(&key, &found, &stored[&key], TOLERANCE);
        }
    }
}

#[test]
fn choices_are_those_of_the_composition() {
    let (memory, stored) = open("onestory-selector");
    for (planes, caption) in ASKED {
        let scores = floats(&scores(&memory.selector, &stored, (planes, caption)));
        let plane = plane(&history(&stored, &format!("{planes}.")));
        for units in 1..=Budget::MOST {
            let budget = Budget {
                units,
                counts: None,
            };
            let chosen = choice(&choose(&scores, budget.counts(plane).unwrap()));
            let key = format!("{planes}.{caption}.chosen.{units}");
            assert_eq!(chosen, stored_choice(&stored[&key]), "{key}");
        }
    }
}

#[test]
fn context_tokens_and_their_positions_are_those_of_the_composition() {
    let (memory, stored) = open("onestory-conditioner");
    for case in ["16x32.6", "7x9.6", "7x9.9"] {
        let of = |name: &str| &stored[&format!("{case}.{name}")];
        let history = history(&stored, &format!("{case}."));
        let counts: Vec<i64> = of("counts").try_into().unwrap();
        let counts = Counts(std::array::from_fn(|kernel| counts[kernel] as u32));
        let chosen = choose(&floats(of("scores")), counts);
        assert_eq!(choice(&chosen), stored_choice(of("chosen")), "{case}");
        let tokens = context(&memory, &history, &chosen);
        assert_close(case, &tokens.squeeze_dim(0), of("context"), TOLERANCE);
        let frames = history.iter().map(|shot| shot.size()[2] as usize).sum();
        for (name, time) in [
            ("shifted", ContextTime::default()),
            ("true_distance", ContextTime::TrueDistance),
        ] {
            let found = context_positions(&chosen, frames, plane(&history), time).unwrap();
            let expected = of(&format!("positions.{name}"));
            assert_eq!(found.kind(), Kind::Double);
            assert!(found.equal(expected), "{case}, {name}: {found}");
        }
    }
}

#[test]
fn patchifiers_begin_as_those_of_the_composition() {
    let stored = golden_tensors("onestory-conditioner", "io.safetensors");
    // The transformer's patches have more channels than the history.
    let patch = stored["patch_embedding.weight"].narrow(1, 0, 4);
    for kernel in Kernel::ALL {
        let found = spread_patch(&patch, kernel).unwrap();
        let expected = &stored[&format!("spread.{kernel}")];
        assert_close(kernel.name(), &found, expected, TOLERANCE);
    }
}

/// The selector's scores, the choice, the tokens and the positions that the transformer of the case is given.
#[test]
fn the_context_of_the_whole_forward_is_that_of_the_composition() {
    let (memory, stored) = open("onestory-forward");
    let history = history(&stored, "");
    let text = stored["words"].narrow(0, 0, 1);
    let scores = memory.selector.forward(&text, &history).unwrap();
    assert_close(
        "scores",
        &scores.squeeze_dim(0),
        &stored["scores"],
        TOLERANCE,
    );
    let counts = Budget::default().counts(plane(&history)).unwrap();
    let chosen = choose(&floats(&scores), counts);
    assert_eq!(choice(&chosen), stored_choice(&stored["chosen"]));
    let tokens = context(&memory, &history, &chosen);
    assert_close(
        "context",
        &tokens.squeeze_dim(0),
        &stored["context"],
        TOLERANCE,
    );
    let time = ContextTime::default();
    let positions = context_positions(&chosen, 10, plane(&history), time).unwrap();
    assert!(positions.equal(&stored["context_positions"]), "{positions}");
}

/// A forward that the composition has made.
struct Forward {
    folder: &'static str,
    timestep: &'static str,
    /// Samples of the stored batch.
    batch: i64,
}

impl Forward {
    const ALL: [Self; 4] = [
        Self::of("transformer", "shared", 2),
        Self::of("transformer", "zero", 2),
        Self::of("transformer_image", "shared", 1),
        Self::of("transformer_image", "zero", 1),
    ];

    const fn of(folder: &'static str, timestep: &'static str, batch: i64) -> Self {
        Self {
            folder,
            timestep,
            batch,
        }
    }

    fn name(&self) -> String {
        format!("{}.{}", self.folder, self.timestep)
    }

    fn model(&self, shard: &Shard) -> WanTransformer {
        let folder = golden("onestory-forward").join(self.folder);
        WanTransformer::open_shard(&folder, CPU, shard).unwrap()
    }

    /// What `model` predicts for the stored sample with the first `count` tokens of the stored context.
    fn run(&self, model: &WanTransformer, stored: &Stored, count: i64) -> Tensor {
        let first = |name: &str| stored[name].narrow(0, 0, self.batch);
        let words = first("words");
        let words = words.constant_pad_nd([0, 0, 0, 512 - words.size()[1]]);
        let image = (self.folder == "transformer_image").then(|| &stored["image"]);
        let text = model.prepare_context(&words, image).unwrap();
        let tokens = stored["context"].narrow(0, 0, count).unsqueeze(0);
        let positions = stored["context_positions"].narrow(0, 0, count);
        let inputs = ForwardInputs {
            hidden_states: &first("sample"),
            timestep: &first("timestep"),
            temporal_positions: None,
            appended: Some(AppendedTokens {
                tokens: &tokens.expand([self.batch, -1, -1], false),
                positions: &positions.unsqueeze(0),
                is_clean: self.timestep == "zero",
            }),
        };
        model.forward(&inputs, &text).unwrap()
    }
}

/// All tokens of the stored context, and one fewer: then ranks cannot share the tokens evenly.
const TOKENS: [i64; 2] = [24, 23];

/// Alone, and on two ranks that share layers or tokens.
#[test]
fn the_whole_forward_is_that_of_the_composition() {
    for case in Forward::ALL {
        let (_, stored) = open("onestory-forward");
        let model = case.model(&Shard::default());
        let [alone, fewer] = TOKENS.map(|count| case.run(&model, &stored, count));
        let expected = &stored[&case.name()];
        assert_close(&case.name(), &alone, expected, TOLERANCE);
        assert!(relative_error(&fewer, &alone) > 10.0 * TOLERANCE);
        for (tensor, sequence) in [(2, 1), (1, 2)] {
            let degrees = Degrees {
                tensor,
                sequence,
                cfg: 1,
            };
            for [shared, shared_fewer] in on_ranks(degrees.ranks(), |group| {
                let (shard, _) = Shard::join(&group, degrees).unwrap();
                let (model, (_, stored)) = (case.model(&shard), open("onestory-forward"));
                TOKENS.map(|count| case.run(&model, &stored, count))
            }) {
                let name = format!("{}, tensor {tensor}, sequence {sequence}", case.name());
                assert_close(&name, &shared, expected, TOLERANCE);
                assert_close(&name, &shared_fewer, &fewer, TOLERANCE);
            }
        }
    }
}
