//! Plans and query states on whole models.

use storyloom_nn::shard::Peers;
use storyloom_nn::testing::{cosines, on_ranks};

use super::*;
use crate::language::queries::{
    ImageTokens, IntraQuery, Layout, PlanConstraint, PlanText, QueriesConfig, QueryRows, TextRows,
    states_in_one_pass,
};

const BLIND: &str = "language-qwen3";
/// The two tokens around pictures; here texts do not use them otherwise.
const IMAGE: ImageTokens = ImageTokens {
    open: 309,
    close: 310,
};
const PLAN: [u32; 9] = [7, 8, 309, 310, 9, 11, 309, 310, 12];

fn queries() -> QueryRows {
    QueryRows {
        rows: cosines(&[3, 48], 0.4),
        config: QueriesConfig {
            num_queries: 3,
            width: 48,
            intra_query: IntraQuery::Full,
            image_tokens: IMAGE,
        },
    }
}

/// A prompt of a golden case, with pictures where the model sees any.
fn prompt(case: &str, model: &LanguageModel) -> Prompt {
    let io = io(case);
    match case == SEEING {
        true => Prompt {
            text: String::new(),
            tokens: ids(&io["prompt"]),
            images: seen(model),
        },
        false => Prompt {
            text: String::new(),
            tokens: ids(&io["prompt.1"]),
            images: Vec::new(),
        },
    }
}

/// The states by one pass with the block mask.
fn expected(case: &str, model: &LanguageModel) -> Vec<Tensor> {
    let prompt = prompt(case, model);
    let layout = Layout::new(&prompt.tokens, &PLAN, IMAGE, 3).unwrap();
    let grids: Vec<_> = prompt.images.iter().map(|image| image.grid).collect();
    let count = prompt.tokens.len() as i64;
    let input = match &model.config().vision {
        Some(vision) => prompt_positions(&prompt.tokens, &grids, vision).unwrap(),
        None => PromptPositions {
            tokens: (0..count).map(|place| [place; 3]).collect(),
            next: count,
        },
    };
    let text = TextRows {
        embedded: &model.embed(layout.tokens(), &prompt.images).unwrap(),
        input: &input,
    };
    let states = states_in_one_pass(model.decoder(), &layout, &queries(), text);
    states.unwrap().1
}

/// Alone and where ranks share it, with pictures in the prompt and without.
#[test]
fn a_model_says_what_its_plan_shows() {
    for (case, ranks) in [(BLIND, 1), (BLIND, 2), (SEEING, 1), (SEEING, 2)] {
        let expected = expected(case, &load(case));
        assert_eq!(expected.len(), 2);
        for states in on_ranks(ranks, |group| {
            let peers = Peers::new(Some(group));
            let settings = LanguageSettings {
                peers,
                ..Default::default()
            };
            let model = LanguageModel::load(&golden(case), &settings).unwrap();
            if ranks > 1 && !model.peers().leads() {
                model.follow().unwrap();
                return None;
            }
            let prompt = prompt(case, &model);
            Some(model.query_states(&prompt, &PLAN, &queries()).unwrap())
        })
        .into_iter()
        .flatten()
        {
            for (found, expected) in states.iter().zip(&expected) {
                let difference = (found - expected).abs().max().double_value(&[]);
                assert!(
                    difference <= 1e-5,
                    "{case}, {ranks} ranks: {difference:.2e}"
                );
            }
        }
    }
}

/// Whatever is drawn, the text is a plan, and its states can be had.
#[test]
fn texts_that_are_kept_to_it_are_plans() {
    let model = load(BLIND);
    let prompt = prompt(BLIND, &model);
    let ends = model.generation().end_tokens.clone();
    let mut pictures = 0;
    for seed in 0..24 {
        let constraint = PlanConstraint::new(IMAGE, &ends, model.config().vocab_size, 3).unwrap();
        let sampling = Sampling {
            temperature: 3.0,
            seed: Seed(seed),
            ..Sampling::greedy(100)
        };
        let request = Request {
            constraint: Some(Box::new(constraint)),
            ..request(prompt.tokens.clone(), sampling)
        };
        let mut plan = texts(&model, 1, vec![request]).remove(0).tokens;
        if plan.last() == Some(&IMAGE.open) {
            // Cut by its length.
            plan.pop();
        }
        let layout = Layout::new(&prompt.tokens, &plan, IMAGE, 3).unwrap();
        assert!(layout.pictures() <= 3 && plan[0] != IMAGE.open);
        let states = model.query_states(&prompt, &plan, &queries()).unwrap();
        assert_eq!(states.len(), layout.pictures());
        pictures += states.len();
    }
    assert!(pictures > 0);
}

#[test]
fn plans_are_written_and_read() {
    let model = load(BLIND);
    let plan = PlanText {
        overview: "a small lamp and\na red mug".to_owned(),
        shots: vec!["the lamp".to_owned(), "the mug".to_owned()],
    };
    let tokens = plan.tokens(model.tokenizer(), IMAGE).unwrap();
    let layout = Layout::new(&[], &tokens, IMAGE, 2).unwrap();
    assert_eq!(layout.pictures(), 2);
    assert_eq!(tokens[tokens.len() - 2..], [309, 310]);
    let read = PlanText::read(&tokens, model.tokenizer(), IMAGE).unwrap();
    assert_eq!(read.overview, "a small lamp and a red mug");
    assert_eq!(read.shots, plan.shots);
    // What stands behind the last picture is no shot, and a text may have no story in short.
    let more = [
        &model.tokenizer().encode("one").unwrap()[..],
        &[309, 310, 5],
    ]
    .concat();
    let read = PlanText::read(&more, model.tokenizer(), IMAGE).unwrap();
    assert_eq!(
        (read.overview.as_str(), &read.shots[..]),
        ("", &["one".to_owned()][..])
    );
    assert_eq!(
        PlanText::read(&[], model.tokenizer(), IMAGE).unwrap(),
        PlanText::default()
    );
    let strange = PlanText {
        shots: vec!["<|vision_end|>".to_owned()],
        ..PlanText::default()
    };
    assert!(strange.tokens(model.tokenizer(), IMAGE).is_err());
}
