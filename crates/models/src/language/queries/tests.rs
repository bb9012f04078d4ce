//! The vectors `planner_mask` and `modules/cases/planner`, and the invariants of specification `narrative-weaver`,
//! section 7, items 5 to 7.

use std::path::Path;

use serde_json::Value;
use storyloom_nn::checkpoint::{Checkpoint, Target};
use storyloom_nn::gradients::with_gradients;
use storyloom_nn::shard::Peers;
use storyloom_nn::testing::fill_checkpoint;
use storyloom_nn::testing::vectors::{
    asked_tensors, assert_begins, assert_near, assert_vector, flux_vector, integers, numbers,
    vector_weights, wave,
};
use tch::{Kind, Tensor};

use super::*;
use crate::language::{
    Constraint, Decoder, ForwardArgs, Input, LanguageConfig, PromptPositions, TokenMask,
};

const IMAGE: ImageTokens = ImageTokens {
    open: 38,
    close: 39,
};
const INPUT: [u32; 2] = [1, 2];
/// Tokens of the 12-token case, without slots.
const PLAN: [u32; 6] = [3, 38, 39, 4, 38, 39];

/// The decoder of the vectors.
fn decoder() -> Decoder {
    let mut config = flux_vector("modules/cases/planner/config");
    config["architectures"] = serde_json::json!(["Qwen2ForCausalLM"]);
    let empty = Checkpoint::from_files(Path::new("planner"), config.clone(), &[]).unwrap();
    let shape = LanguageConfig::of(&empty).unwrap();
    let weights = empty.weights(Target::CPU_F32);
    Decoder::load(&weights, shape.clone(), &Peers::default()).unwrap();
    let tensors = weights.asked_for().into_iter().map(|(name, shape)| {
        // The names of the text model alone.
        let tensor = vector_weights(name.trim_start_matches("model."), &shape);
        (name, tensor)
    });
    let filled = Checkpoint::from_tensors(tensors.collect(), config);
    Decoder::load(&filled.weights(Target::CPU_F32), shape, &Peers::default()).unwrap()
}

fn layout(plan: &[u32], num_queries: usize) -> Layout {
    Layout::new(&INPUT, plan, IMAGE, num_queries).unwrap()
}

fn counted(tokens: i64) -> PromptPositions {
    PromptPositions {
        tokens: (0..tokens).map(|place| [place; 3]).collect(),
        next: tokens,
    }
}

fn queries(num_queries: i64, phase: f64, intra_query: IntraQuery) -> QueryRows {
    let config = QueriesConfig {
        num_queries,
        width: 32,
        intra_query,
        image_tokens: IMAGE,
    };
    QueryRows {
        rows: wave(0.4, phase, &[num_queries, 32]),
        config,
    }
}

/// Rows of `layout` as `mask` has them, as the vectors write them.
fn written(mask: &Tensor) -> Vec<String> {
    let rows = mask.size()[2];
    let row = |row: i64| {
        let flags = Vec::<bool>::try_from(mask.get(0).get(0).get(row)).unwrap();
        flags
            .iter()
            .map(|&flag| if flag { '1' } else { '0' })
            .collect()
    };
    (0..rows).map(row).collect()
}

fn ones(mask: &Tensor) -> i64 {
    mask.sum(Kind::Int64).int64_value(&[])
}

#[track_caller]
fn assert_equal_states(found: &[Tensor], expected: &[Tensor], tolerance: f64) {
    assert_eq!(found.len(), expected.len());
    for (picture, (found, expected)) in found.iter().zip(expected).enumerate() {
        assert_eq!(found.size(), expected.size());
        let difference = apart(found, expected);
        assert!(
            difference <= tolerance,
            "picture {picture}: {difference:.2e}"
        );
    }
}

fn apart(found: &Tensor, expected: &Tensor) -> f64 {
    (found - expected).abs().max().double_value(&[])
}

#[test]
fn the_mask_of_the_specification() {
    let vector = flux_vector("planner_mask");
    let layout = layout(&PLAN, 2);
    let classes = layout.classes().into_iter().map(|class| match class {
        RowClass::Input => "I".to_owned(),
        RowClass::Text => "T".to_owned(),
        RowClass::Query(picture) => format!("Q{}", picture + 1),
    });
    let classes: Value = classes.collect();
    assert_eq!(classes, vector["classes"]);
    let [full, causal] =
        [IntraQuery::Full, IntraQuery::Causal].map(|intra| layout.mask(intra).unwrap());
    let rows: Value = written(&full).into_iter().collect();
    assert_eq!(rows, vector["full"]);
    assert_eq!(ones(&full), vector["ones"]["full"].as_i64().unwrap());
    assert_eq!(ones(&causal), vector["ones"]["causal"].as_i64().unwrap());
    let positions = layout.positions(&counted(2)).unwrap();
    for axis in 0..3 {
        let found = Vec::<i64>::try_from(positions.get(axis).get(0)).unwrap();
        assert_eq!(found, integers(&vector["positions"]));
    }
}

/// The text clock goes on from where a picture of the input ends, not from the number of its tokens.
#[test]
fn a_picture_in_the_input_moves_the_clock() {
    let rows = integers(&flux_vector("planner_mask/with_picture/rows"));
    let rows = rows.as_chunks::<3>().0;
    let input = PromptPositions {
        tokens: rows[..6].to_vec(),
        next: 4,
    };
    let plan = [3, IMAGE.open, IMAGE.close];
    let layout = Layout::new(&[7; 6], &plan, IMAGE, 2).unwrap();
    let positions = layout.positions(&input).unwrap();
    let expected = Tensor::from_slice(rows.as_flattened()).view([-1, 3]);
    assert_eq!(positions, expected.transpose(0, 1).unsqueeze(1));
    assert!(layout.positions(&counted(5)).is_err());
}

/// Item 5, for other plans: no text sees a slot, and no slot a later picture.
#[test]
fn nothing_sees_what_it_must_not() {
    let plan = [5, 6, 38, 39, 38, 39, 7, 8, 9, 38, 39, 10];
    for intra in [IntraQuery::Full, IntraQuery::Causal] {
        let layout = layout(&plan, 3);
        let classes = layout.classes();
        assert_eq!(
            (classes.len(), layout.rows(), layout.pictures()),
            (23, 23, 3)
        );
        for (row, from) in written(&layout.mask(intra).unwrap()).iter().zip(&classes) {
            assert!(row.contains('1'));
            for (seen, to) in row.bytes().zip(&classes) {
                match (from, to) {
                    (RowClass::Query(of), RowClass::Query(other)) if other > of => {
                        assert_eq!(seen, b'0');
                    }
                    (RowClass::Input | RowClass::Text, RowClass::Query(_)) => {
                        assert_eq!(seen, b'0');
                    }
                    (RowClass::Query(_), RowClass::Input) => assert_eq!(seen, b'1'),
                    _ => {}
                }
            }
        }
    }
}

#[test]
fn a_plan_that_is_not_closed_is_refused() {
    for plan in [
        &[3, 38][..],
        &[3, 38, 4, 39],
        &[3, 39],
        &[39],
        &[3, 38, 38, 39, 39],
    ] {
        let error = Layout::new(&INPUT, plan, IMAGE, 2).unwrap_err().to_string();
        assert!(
            error.contains("must follow each other"),
            "{plan:?}: {error}"
        );
    }
    let empty = Layout::new(&INPUT, &[], IMAGE, 2).unwrap();
    assert_eq!((empty.rows(), empty.pictures()), (2, 0));
    assert!(empty.picture_mask(0, IntraQuery::Full).is_err());
}

/// The vector `modules/cases/planner`.
#[test]
fn the_decoder_of_the_vectors_with_the_mask() {
    let vector = flux_vector("modules/cases/planner");
    let (decoder, layout) = (decoder(), layout(&PLAN, 2));
    let hidden = decoder.forward(ForwardArgs {
        input: Input::Embeddings(&wave(0.3, 0.7, &[1, 12, 32])),
        positions: Some(&layout.positions(&counted(2)).unwrap()),
        mask: Some(&layout.mask(IntraQuery::Full).unwrap()),
        cache: None,
    });
    let hidden = hidden.unwrap();
    assert_vector("planner", &hidden, &vector["output_after_norm"], 1e-5);
    let output = &vector["output_after_norm"];
    let of_row = |row: i64| hidden.narrow(1, row, 1).reshape([-1]);
    assert_begins("q1", &of_row(4), &output["q1_first"], 1e-5);
    let last = Vec::<f64>::try_from(of_row(10).to_kind(Kind::Double)).unwrap();
    let expected = numbers(&output["q2_last"]);
    assert_near("q2", &last[last.len() - expected.len()..], &expected, 1e-5);
}

/// Rows of the tokens of a layout.
fn text_of(decoder: &Decoder, layout: &Layout) -> Tensor {
    let tokens: Vec<i64> = layout.tokens().iter().map(|&id| i64::from(id)).collect();
    decoder
        .embed(&Tensor::from_slice(&tokens).unsqueeze(0))
        .unwrap()
}

/// States by appended slots.
fn states(decoder: &Decoder, plan: &[u32], queries: &QueryRows) -> Vec<Tensor> {
    let layout = layout(plan, queries.config.num_queries as usize);
    let text = TextRows {
        embedded: &text_of(decoder, &layout),
        input: &counted(2),
    };
    query_states(decoder, &layout, queries, text).unwrap()
}

/// States in one pass, and the scores of its rows of text.
fn in_one_pass(decoder: &Decoder, plan: &[u32], queries: &QueryRows) -> (Vec<Tensor>, Tensor) {
    let layout = layout(plan, queries.config.num_queries as usize);
    let text = TextRows {
        embedded: &text_of(decoder, &layout),
        input: &counted(2),
    };
    let (hidden, states) = states_in_one_pass(decoder, &layout, queries, text).unwrap();
    let classes = layout.classes();
    let of_text = (0_i64..).zip(&classes);
    let of_text = of_text.filter(|(_, class)| !matches!(class, RowClass::Query(_)));
    let rows: Vec<i64> = of_text.map(|(row, _)| row).collect();
    let rows = hidden.index_select(1, &Tensor::from_slice(&rows));
    (states, decoder.logits(&rows).unwrap())
}

const LONG: [u32; 14] = [3, 9, 38, 39, 4, 38, 39, 5, 6, 38, 39, 38, 39, 7];

/// Item 7: the cache takes the place of the block mask.
#[test]
fn appended_slots_have_the_states_of_one_pass() {
    let decoder = decoder();
    for intra in [IntraQuery::Full, IntraQuery::Causal] {
        for (plan, count) in [(&PLAN[..], 2), (&LONG, 2), (&LONG, 5), (&LONG, 1)] {
            let queries = queries(count, 0.9, intra);
            let whole = in_one_pass(&decoder, plan, &queries).0;
            assert_equal_states(&states(&decoder, plan, &queries), &whole, 1e-5);
        }
    }
    let of = |intra| states(&decoder, &LONG, &queries(3, 0.9, intra));
    let (full, causal) = (of(IntraQuery::Full), of(IntraQuery::Causal));
    assert!(apart(&full[0].get(0), &causal[0].get(0)) > 1e-3);
    assert!(full.iter().all(|states| states.kind() == Kind::Float));
}

/// Items 6 and 7: what comes later changes nothing, so pictures may be begun while the plan is still written.
#[test]
fn the_states_of_a_picture_follow_from_the_plan_so_far() {
    let decoder = decoder();
    let queries = queries(2, 0.9, IntraQuery::Full);
    let whole = states(&decoder, &LONG, &queries);
    for (pictures, length) in [(1, 4), (2, 7), (3, 11), (4, 13)] {
        let streamed = states(&decoder, &LONG[..length], &queries);
        assert_equal_states(&streamed, &whole[..pictures], 1e-5);
    }
    let mut later = LONG;
    later[4] = 8;
    let changed = states(&decoder, &later, &queries);
    assert_equal_states(&changed[..1], &whole[..1], 1e-6);
    assert!(apart(&changed[1], &whole[1]) > 1e-3 && apart(&changed[2], &whole[2]) > 1e-3);
    let mut sooner = LONG;
    sooner[1] = 8;
    let changed = states(&decoder, &sooner, &queries);
    assert!((0..4).all(|picture| apart(&changed[picture], &whole[picture]) > 1e-3));
}

/// Item 6: the text is the same with and without slots, whatever stands in them.
#[test]
fn the_text_does_not_depend_on_slots() {
    let decoder = decoder();
    let layout = layout(&LONG, 0);
    let embedded = text_of(&decoder, &layout);
    let alone = decoder.forward(ForwardArgs {
        input: Input::Embeddings(&embedded),
        positions: None,
        mask: None,
        cache: None,
    });
    let alone = decoder.logits(&alone.unwrap()).unwrap();
    for count in [0, 2, 4] {
        let [one, other] = [0.9, 1.3].map(|phase| {
            let queries = queries(count, phase, IntraQuery::Full);
            in_one_pass(&decoder, &LONG, &queries)
        });
        assert!(apart(&one.1, &alone) <= 1e-5, "{count}");
        assert!(apart(&one.1, &other.1) <= 1e-6, "{count}");
        assert!(count == 0 || apart(&one.0[0], &other.0[0]) > 1e-3);
    }
}

/// Item 8, of stage 2: the rows can be trained.
#[test]
fn gradients_reach_the_rows() {
    with_gradients(|| {
        let decoder = decoder();
        let mut queries = queries(2, 0.9, IntraQuery::Full);
        queries.rows = queries.rows.set_requires_grad(true);
        let (layout, input) = (layout(&PLAN, 2), counted(2));
        let text = TextRows {
            embedded: &text_of(&decoder, &layout).detach(),
            input: &input,
        };
        let (_, states) = states_in_one_pass(&decoder, &layout, &queries, text).unwrap();
        states[1].square().sum(Kind::Float).backward();
        assert!(queries.rows.grad().abs().max().double_value(&[]) > 0.0);
    });
}

#[test]
fn rows_of_another_model_and_plans_too_long_are_refused() {
    let (decoder, input) = (decoder(), counted(2));
    let refused = |layout: &Layout, queries: &QueryRows| {
        let text = TextRows {
            embedded: &text_of(&decoder, layout),
            input: &input,
        };
        let appended = query_states(&decoder, layout, queries, text);
        appended.unwrap_err().to_string()
    };
    let error = refused(&layout(&PLAN, 3), &queries(2, 0.9, IntraQuery::Full));
    assert!(
        error.contains("[3, 32] is needed, found [2, 32]"),
        "{error}"
    );
    let many = decoder.config().max_positions;
    let error = refused(
        &layout(&PLAN, many as usize),
        &queries(many, 0.9, IntraQuery::Full),
    );
    assert!(error.contains("the model counts to"), "{error}");
}

/// What a component folder must hold.
#[test]
fn rows_come_from_their_folder() {
    let folder = tempfile::tempdir().unwrap();
    let config = QueriesConfig {
        num_queries: 3,
        width: 8,
        ..QueriesConfig::default()
    };
    let mut json = serde_json::to_value(&config).unwrap();
    json["_class_name"] = QueriesConfig::CLASS.into();
    let write = |json: &Value| {
        fill_checkpoint(folder.path(), &json.to_string(), 0.3, |weights| {
            QueryRows::load(weights, config.clone()).map(drop)
        });
    };
    write(&json);
    let opened = QueryRows::open(folder.path(), Target::CPU_F32).unwrap();
    assert_eq!((opened.rows.size(), &opened.config), (vec![3, 8], &config));
    assert_eq!(opened.config.image_tokens, ImageTokens::default());
    assert_eq!(json["image_tokens"], serde_json::json!([151_665, 151_666]));
    let refused = |key: &str, value: Value| {
        let mut json = json.clone();
        json[key] = value;
        write(&json);
        QueryRows::open(folder.path(), Target::CPU_F32)
            .unwrap_err()
            .to_string()
    };
    assert!(refused("image_tokens", serde_json::json!([5, 5])).contains("5 twice"));
    assert!(refused("num_queries", 0.into()).contains("num_queries"));
    assert!(refused("intra_query", "some".into()).contains("some"));
    assert!(refused("_class_name", "Other".into()).contains("Other"));
    assert!(refused("width", 9.into()).contains("queries.weight"));
}

fn allowed(constraint: &mut PlanConstraint) -> Vec<u32> {
    let mask = constraint.mask().unwrap();
    (0..64).filter(|&token| mask.allows(token)).collect()
}

#[test]
fn a_plan_is_kept_to_its_form() {
    let mut plan = PlanConstraint::new(IMAGE, &[0], 40, 2).unwrap();
    let text: Vec<u32> = (1..38).collect();
    assert_eq!(
        allowed(&mut plan),
        text,
        "neither a picture nor the end without a text"
    );
    assert!(plan.commit(IMAGE.open).is_err());
    assert!(!plan.commit(7).unwrap());
    let with_picture: Vec<u32> = (0..39).collect();
    for pictures in 1..=2 {
        assert_eq!(allowed(&mut plan), with_picture);
        assert!(!plan.commit(IMAGE.open).unwrap());
        assert_eq!(allowed(&mut plan), [IMAGE.close]);
        assert!(plan.commit(9).is_err() && plan.commit(IMAGE.open).is_err());
        assert!(!plan.commit(IMAGE.close).unwrap());
        assert_eq!(plan.pictures(), pictures);
    }
    let closed: Vec<u32> = (0..38).collect();
    assert_eq!(
        allowed(&mut plan),
        closed,
        "the third picture is one too many"
    );
    assert!(plan.commit(IMAGE.open).is_err() && plan.commit(IMAGE.close).is_err());
    assert!(PlanConstraint::new(IMAGE, &[0], 39, 2).is_err());
}

/// Allows the next of its tokens alone, and is complete after them; knows a vocabulary of 32.
struct Exact(Vec<u32>);

impl Constraint for Exact {
    fn mask(&mut self) -> storyloom_nn::error::Result<TokenMask> {
        let mut mask = TokenMask::none(32);
        self.0
            .first()
            .into_iter()
            .for_each(|&token| mask.allow(token));
        Ok(mask)
    }

    fn commit(&mut self, token: u32) -> storyloom_nn::error::Result<bool> {
        assert_eq!(self.0.remove(0), token);
        Ok(self.0.is_empty())
    }
}

#[test]
fn the_text_of_a_plan_keeps_its_own_form() {
    let plan = PlanConstraint::new(IMAGE, &[0], 40, 2).unwrap();
    let mut plan = plan.with_text(Box::new(Exact(vec![5, 6])));
    assert_eq!(allowed(&mut plan), [5]);
    assert!(!plan.commit(5).unwrap());
    assert_eq!(allowed(&mut plan), [6, IMAGE.open]);
    assert!(!plan.commit(IMAGE.open).unwrap());
    assert_eq!(allowed(&mut plan), [IMAGE.close]);
    assert!(!plan.commit(IMAGE.close).unwrap());
    assert!(plan.commit(6).unwrap(), "the text is complete");
}

fn projector(config: &ProjectorConfig) -> Projector {
    let folder = tempfile::tempdir().unwrap();
    let mut json = serde_json::to_value(config).unwrap();
    json["_class_name"] = ProjectorConfig::CLASS.into();
    fill_checkpoint(folder.path(), &json.to_string(), 0.2, |weights| {
        Projector::load(weights, config).map(drop)
    });
    Projector::open(folder.path(), Target::CPU_F32).unwrap()
}

fn small() -> ProjectorConfig {
    ProjectorConfig {
        width: 8,
        text_width: 12,
        pooled_width: 5,
        connector_heads: 2,
        connector_intermediate_size: 16,
        ..ProjectorConfig::default()
    }
}

/// The projector by plain tensor operations.
#[test]
fn the_projector_is_a_norm_and_two_layers() {
    let config = small();
    let json = serde_json::to_value(&config).unwrap();
    let tensors = asked_tensors(Path::new("projector"), &json, |weights| {
        Projector::load(weights, &config).map(drop)
    });
    let names: Vec<&str> = tensors.keys().map(String::as_str).collect();
    let expected = [
        "mlp.0.bias",
        "mlp.0.weight",
        "mlp.2.bias",
        "mlp.2.weight",
        "norm.weight",
        "pooled.bias",
        "pooled.weight",
    ];
    assert_eq!(names, expected);
    let copies = tensors
        .iter()
        .map(|(name, tensor)| (name.clone(), tensor.shallow_clone()));
    let filled = Checkpoint::from_tensors(copies.collect(), json);
    let projector = Projector::load(&filled.weights(Target::CPU_F32), &config).unwrap();
    let states = wave(0.3, 0.2, &[2, 4, 8]);
    let found = projector.forward(&states).unwrap();
    let linear = |input: &Tensor, name: &str| {
        let bias = &tensors[&format!("{name}.bias")];
        input.matmul(&tensors[&format!("{name}.weight")].transpose(0, 1)) + bias
    };
    let squares = states
        .square()
        .mean_dim([-1_i64].as_slice(), true, Kind::Float);
    let normed = &states * (squares + 1e-6).rsqrt() * &tensors["norm.weight"];
    let text = linear(&linear(&normed, "mlp.0").gelu("tanh"), "mlp.2");
    assert!(apart(&found.text, &text) < 1e-5);
    let mean = states.mean_dim([1_i64].as_slice(), false, Kind::Float);
    assert!(apart(&found.pooled, &linear(&mean, "pooled")) < 1e-5);
    assert_eq!(
        (found.text.size(), found.pooled.size()),
        (vec![2, 4, 12], vec![2, 5])
    );
    let error = projector.forward(&wave(0.3, 0.2, &[2, 4, 9])).unwrap_err();
    assert!(error.to_string().contains("query_states"), "{error}");
}

/// Slots see each other through a connector, and only through it; pictures of a batch never do.
#[test]
fn a_connector_lets_slots_see_each_other() {
    let with = |connector_layers| {
        projector(&ProjectorConfig {
            connector_layers,
            ..small()
        })
    };
    let states = wave(0.3, 0.2, &[2, 4, 8]);
    let changed = states.copy();
    changed.get(0).get(3).copy_(&wave(0.5, 0.1, &[8]));
    for (layers, is_seen) in [(0, false), (2, true)] {
        let projector = with(layers);
        let [before, after] =
            [&states, &changed].map(|states| projector.forward(states).unwrap().text);
        assert_eq!(
            apart(&before.get(0).get(0), &after.get(0).get(0)) > 1e-4,
            is_seen
        );
        assert!(apart(&before.get(0).get(3), &after.get(0).get(3)) > 1e-3);
        assert!(apart(&before.get(1), &after.get(1)) < 1e-6);
        let alone = projector.forward(&states.narrow(0, 1, 1)).unwrap();
        assert!(apart(&alone.text.get(0), &before.get(1)) < 1e-5);
    }
}

#[test]
fn projectors_that_make_no_sense_are_refused() {
    for (key, value) in [
        ("width", 0),
        ("text_width", 0),
        ("pooled_width", -1),
        ("connector_layers", -1),
        ("connector_heads", 3),
    ] {
        let mut json = serde_json::to_value(small()).unwrap();
        json["_class_name"] = ProjectorConfig::CLASS.into();
        json["connector_layers"] = 1.into();
        json[key] = value.into();
        let folder = tempfile::tempdir().unwrap();
        fill_checkpoint(folder.path(), "{}", 0.2, |weights| {
            Projector::load(weights, &small()).map(drop)
        });
        std::fs::write(folder.path().join("config.json"), json.to_string()).unwrap();
        let error = Projector::open(folder.path(), Target::CPU_F32)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains(key.trim_start_matches("connector_")),
            "{key}: {error}"
        );
    }
}
