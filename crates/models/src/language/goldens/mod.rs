//! Parity with transformers on the folders `language-…` of `tests/golden`.

mod pictures;
mod queries;
mod ranks;

use std::collections::BTreeMap;

use image::RgbImage;
use serde::Deserialize;
use storyloom_nn::error::Result;
use storyloom_nn::gradients::with_gradients;
use storyloom_nn::testing::{golden, golden_tensors, relative_error};
use storyloom_story::Seed;
use tch::{Kind, Tensor};

use self::pictures::seen;
use super::*;

const TEXT_CASES: [&str; 4] = [
    "language-qwen2",
    "language-qwen3",
    "language-qwen3moe",
    "language-llama2",
];
const SEEING: &str = "language-qwen25vl";
const TOLERANCE: f64 = 1e-4;

fn load(case: &str) -> LanguageModel {
    LanguageModel::load(&golden(case), &LanguageSettings::default()).unwrap()
}

fn io(case: &str) -> BTreeMap<String, Tensor> {
    golden_tensors(case, "io.safetensors")
}

fn ids(tensor: &Tensor) -> Vec<u32> {
    let ids: Vec<i64> = Vec::try_from(tensor).unwrap();
    ids.into_iter().map(|id| id as u32).collect()
}

#[track_caller]
fn assert_close(case: &str, found: &Tensor, expected: &Tensor) {
    let error = relative_error(found, expected);
    assert!(error <= TOLERANCE, "{case}: relative error {error:.2e}");
}

fn request(tokens: Vec<u32>, sampling: Sampling) -> Request {
    Request {
        tokens,
        images: Vec::new(),
        sampling,
        constraint: None,
    }
}

/// The outputs of a batch by request; none may fail.
fn outputs(events: Vec<Event>) -> BTreeMap<RequestId, Generated> {
    let finished = |event| match event {
        Event::Finished { id, output } => Some((id, output)),
        Event::Token { .. } => None,
        Event::Failed { error, .. } => panic!("{error}"),
    };
    events.into_iter().filter_map(finished).collect()
}

/// The texts of prompts that are in a batch together.
fn texts(model: &LanguageModel, slots: usize, requests: Vec<Request>) -> Vec<Generated> {
    let mut batch = Batch::new(model, slots).unwrap();
    for request in requests {
        batch.add(request).unwrap();
    }
    outputs(batch.run().unwrap()).into_values().collect()
}

fn prefill(model: &LanguageModel, prompt: &Tensor) -> Tensor {
    let prompt = prompt.unsqueeze(0);
    let hidden = model
        .decoder()
        .forward(ForwardArgs::of_tokens(&prompt))
        .unwrap();
    model.decoder().logits(&hidden).unwrap().squeeze_dim(0)
}

/// Scores after each of `tokens`, which follow what is in the cache.
fn decode(model: &LanguageModel, cache: &mut KvCache, tokens: &Tensor) -> Tensor {
    let step = |token: i64| -> Tensor {
        let hidden = model.decoder().forward(ForwardArgs {
            input: Input::Tokens(&Tensor::from_slice(&[token]).view([1, 1])),
            positions: None,
            mask: None,
            cache: Some(CacheSlots { cache, slots: &[0] }),
        });
        model.decoder().logits(&hidden.unwrap()).unwrap().view([-1])
    };
    let tokens: Vec<i64> = Vec::try_from(tokens).unwrap();
    Tensor::stack(&tokens.into_iter().map(step).collect::<Vec<_>>(), 0)
}

#[test]
fn prefill_and_cached_decoding() {
    for case in TEXT_CASES {
        let (model, io) = (load(case), io(case));
        let prompt = &io["prompt.0"];
        assert_close(case, &prefill(&model, prompt), &io["logits"]);
        let kept = io["steps"].size()[0];
        let mut cache = model.decoder().cache(1).unwrap();
        let hidden = model.decoder().forward(ForwardArgs {
            cache: Some(CacheSlots {
                cache: &mut cache,
                slots: &[0],
            }),
            ..ForwardArgs::of_tokens(&prompt.unsqueeze(0))
        });
        let last = hidden.unwrap().select(1, prompt.size()[0] - 1);
        let first = model.decoder().logits(&last).unwrap();
        let rest = decode(&model, &mut cache, &io["greedy.0"].narrow(0, 0, kept - 1));
        assert_close(case, &Tensor::cat(&[first, rest], 0), &io["steps"]);
    }
}

/// Three prompts of unequal length in two slots: the third joins when there is room.
#[test]
fn greedy_texts_are_those_of_transformers_token_for_token() {
    for case in TEXT_CASES {
        let (model, io) = (load(case), io(case));
        let prompts = (0..3).map(|n| ids(&io[&format!("prompt.{n}")]));
        let requests = prompts
            .map(|prompt| request(prompt, Sampling::greedy(64)))
            .collect();
        for (n, output) in texts(&model, 2, requests).into_iter().enumerate() {
            assert_eq!(
                output.tokens,
                ids(&io[&format!("greedy.{n}")]),
                "{case}, prompt {n}"
            );
            assert_eq!(output.finish, Finish::Length);
        }
    }
}

#[derive(Deserialize)]
struct Tokens {
    text: String,
    ids: Vec<u32>,
}

#[test]
fn tokens_of_texts_and_back() {
    for case in TEXT_CASES {
        let model = load(case);
        let cases = std::fs::read(golden(case).join("tokens.json")).unwrap();
        let cases: Vec<Tokens> = serde_json::from_slice(&cases).unwrap();
        for Tokens { text, ids } in cases {
            let tokenizer = model.tokenizer();
            assert_eq!(tokenizer.encode(&text).unwrap(), ids, "{case}: {text:?}");
            assert_eq!(tokenizer.decode(&ids).unwrap(), text, "{case}");
        }
    }
}

#[derive(Deserialize)]
struct Talk {
    messages: Vec<(Role, serde_json::Value)>,
    add_generation_prompt: Option<bool>,
    #[serde(default)]
    variables: BTreeMap<String, serde_json::Value>,
    /// `null` where the template refuses the messages; then `ids` says why.
    text: Option<String>,
    ids: serde_json::Value,
}

impl Talk {
    fn conversation(&self) -> Vec<Message> {
        let part = |part: &serde_json::Value| match part.as_str() {
            Some(text) => Content::Text(text.to_owned()),
            None => Content::Image(RgbImage::new(60, 60)),
        };
        let message = |(role, said): &(Role, serde_json::Value)| match said.as_array() {
            Some(parts) => Message {
                role: *role,
                content: parts.iter().map(part).collect(),
            },
            None => Message::text(*role, said.as_str().unwrap()),
        };
        self.messages.iter().map(message).collect()
    }
}

#[test]
fn chat_templates_render_the_same() {
    for case in TEXT_CASES.into_iter().chain([SEEING]) {
        let model = load(case);
        let talks = std::fs::read(golden(case).join("chats.json")).unwrap();
        let talks: Vec<Talk> = serde_json::from_slice(&talks).unwrap();
        assert!(talks.len() >= 4);
        for talk in talks {
            let options = ChatOptions {
                add_generation_prompt: talk.add_generation_prompt.unwrap_or(true),
                variables: talk.variables.clone(),
                ..ChatOptions::default()
            };
            let template = model.chat_template().unwrap();
            let text = template.render(&talk.conversation(), &options);
            let Some(expected) = &talk.text else {
                let error = text.unwrap_err().to_string();
                assert!(
                    error.contains(talk.ids.as_str().unwrap()),
                    "{case}: {error}"
                );
                continue;
            };
            let text = text.unwrap();
            assert_eq!(&text, expected, "{case}");
            let ids: Vec<u32> = serde_json::from_value(talk.ids).unwrap();
            assert_eq!(model.tokenizer().encode(&text).unwrap(), ids, "{case}");
        }
    }
}

/// Drawn texts depend on their seed and prompt, not on what else is in the batch or on when they
/// joined it.
#[test]
fn neighbours_do_not_change_a_text() {
    let model = load("language-qwen3moe");
    let io = io("language-qwen3moe");
    let drawn = |prompt: usize, seed: u64, max_tokens: usize| {
        let sampling = Sampling {
            temperature: 0.9,
            top_p: 0.95,
            top_k: 50,
            seed: Seed(seed),
            ..Sampling::greedy(max_tokens)
        };
        request(ids(&io[&format!("prompt.{prompt}")]), sampling)
    };
    let alone = texts(&model, 1, vec![drawn(1, 7, 30)]).remove(0);
    let mut batch = Batch::new(&model, 3).unwrap();
    batch.add(drawn(0, 1, 5)).unwrap();
    batch.add(drawn(2, 2, 40)).unwrap();
    let leaver = batch.add(drawn(2, 3, 40)).unwrap();
    let mut events = batch.step().unwrap();
    events.extend(batch.step().unwrap());
    let late = batch.add(drawn(1, 7, 30)).unwrap();
    assert!(batch.cancel(leaver).unwrap() && !batch.cancel(leaver).unwrap());
    assert_eq!(batch.len(), 3);
    events.extend(batch.run().unwrap());
    let outputs = outputs(events);
    assert_eq!(outputs[&late], alone);
    assert!(!outputs.contains_key(&leaver));
    let other = texts(&model, 1, vec![drawn(1, 8, 30)]).remove(0);
    assert_ne!(other.tokens, alone.tokens);
}

/// Allows the tokens of a list, one after the other, and then the end.
struct ExactAnswer {
    tokens: Vec<u32>,
    end: Option<u32>,
    said: usize,
}

impl Constraint for ExactAnswer {
    fn mask(&mut self) -> Result<TokenMask> {
        let mut mask = TokenMask::none(400);
        if let Some(token) = self.tokens.get(self.said).copied().or(self.end) {
            mask.allow(token);
        }
        Ok(mask)
    }

    fn commit(&mut self, token: u32) -> Result<bool> {
        assert_eq!(token, self.tokens[self.said]);
        self.said += 1;
        Ok(self.end.is_none() && self.said == self.tokens.len())
    }
}

#[test]
fn constraints_rule_and_their_failures_are_their_own() {
    let model = load("language-qwen3");
    let end = model.generation().end_tokens[0];
    let said = model.tokenizer().encode("a red mug").unwrap();
    let kept = |tokens: &[u32], end| {
        let constraint = ExactAnswer {
            tokens: tokens.to_vec(),
            end,
            said: 0,
        };
        let constraint: Option<Box<dyn Constraint>> = Some(Box::new(constraint));
        Request {
            constraint,
            ..request(vec![5, 6], Sampling::greedy(20))
        }
    };
    let mut batch = Batch::new(&model, 4).unwrap();
    let ended = batch.add(kept(&said, Some(end))).unwrap();
    let complete = batch.add(kept(&said, None)).unwrap();
    let stuck = batch.add(kept(&[], None)).unwrap();
    let free = batch.add(request(vec![5, 6], Sampling::greedy(3))).unwrap();
    let mut outputs = BTreeMap::new();
    let mut failed = Vec::new();
    for event in batch.run().unwrap() {
        match event {
            Event::Finished { id, output } => {
                outputs.insert(id, output);
            }
            Event::Failed { id, error } => failed.push((id, error.to_string())),
            Event::Token { .. } => {}
        }
    }
    assert_eq!(outputs[&ended].finish, Finish::EndToken(end));
    assert_eq!(outputs[&complete].finish, Finish::Complete);
    for id in [ended, complete] {
        assert_eq!(
            (outputs[&id].text.as_str(), &outputs[&id].tokens),
            ("a red mug", &said)
        );
    }
    assert_eq!(outputs[&free].tokens.len(), 3);
    assert!(failed.len() == 1 && failed[0].0 == stuck && failed[0].1.contains("no token"));
}

#[test]
fn stop_strings_end_a_text_and_are_not_part_of_it() {
    let model = load("language-qwen3");
    let said = model.tokenizer().encode("one small lamp and").unwrap();
    let kept = |stop: &str| {
        let constraint = ExactAnswer {
            tokens: said.clone(),
            end: None,
            said: 0,
        };
        let constraint: Option<Box<dyn Constraint>> = Some(Box::new(constraint));
        let sampling = Sampling {
            stop: vec![stop.to_owned()],
            ..Sampling::greedy(40)
        };
        Request {
            constraint,
            ..request(vec![5], sampling)
        }
    };
    let made = texts(&model, 2, vec![kept("all l"), kept("nowhere")]);
    assert_eq!(made[0].finish, Finish::StopString("all l".to_owned()));
    assert_eq!(made[0].text, "one sm");
    assert_eq!(
        (made[1].text.as_str(), &made[1].finish),
        ("one small lamp and", &Finish::Complete)
    );
}

#[test]
fn requests_that_make_no_sense_are_refused() {
    let model = load("language-qwen3");
    let mut batch = Batch::new(&model, 1).unwrap();
    for bad in [
        request(vec![], Sampling::greedy(1)),
        request(vec![0; 512], Sampling::greedy(1)),
        request(vec![9_999], Sampling::greedy(1)),
        request(vec![1], Sampling::greedy(0)),
        Request {
            images: seen(&load(SEEING)),
            ..request(vec![1], Sampling::greedy(1))
        },
    ] {
        assert!(batch.add(bad).is_err());
    }
    assert!(batch.is_empty() && Batch::new(&model, 0).is_err());
    // As long as the model can count: 512 positions.
    batch
        .add(request(vec![1; 509], Sampling::greedy(50)))
        .unwrap();
    let output = outputs(batch.run().unwrap()).into_values().next().unwrap();
    assert_eq!((output.tokens.len(), output.finish), (4, Finish::Length));
}

/// A mask of one's own, embeddings, positions, several tokens at a time, tokens taken back: all
/// are other ways to the same hidden states.
#[test]
fn every_way_to_the_hidden_states_is_open() {
    let (model, io) = (load("language-qwen3"), io("language-qwen3"));
    let decoder = model.decoder();
    let tokens = io["prompt.1"].unsqueeze(0);
    let count = tokens.size()[1];
    let expected = decoder.forward(ForwardArgs::of_tokens(&tokens)).unwrap();
    let embedded = decoder.embed(&tokens).unwrap();
    let positions = Tensor::arange(count, (Kind::Int64, tch::Device::Cpu)).view([1, 1, count]);
    let allowed = Tensor::ones([count, count], (Kind::Bool, tch::Device::Cpu)).tril(0);
    let allowed = allowed.view([1, 1, count, count]);
    let added = Tensor::zeros([1, 1, count, count], (Kind::Float, tch::Device::Cpu))
        .masked_fill(&allowed.logical_not(), f64::NEG_INFINITY);
    for mask in [None, Some(&allowed), Some(&added)] {
        let found = decoder.forward(ForwardArgs {
            input: Input::Embeddings(&embedded),
            positions: Some(&positions),
            mask,
            cache: None,
        });
        assert_close("embeddings", &found.unwrap(), &expected);
    }
    // Two sequences of which one is ahead, in slots in another order.
    let mut cache = decoder.cache(3).unwrap();
    let forward = |slots: &[usize], first: i64, length: i64, cache: &mut KvCache| {
        let part = tokens
            .narrow(1, first, length)
            .repeat([slots.len() as i64, 1]);
        let cache = Some(CacheSlots { cache, slots });
        decoder
            .forward(ForwardArgs {
                cache,
                ..ForwardArgs::of_tokens(&part)
            })
            .unwrap()
    };
    for (slots, length) in [(&[0][..], 4), (&[2, 0], 5)] {
        let _ = forward(slots, 0, length, &mut cache);
    }
    cache.truncate(0, 4);
    assert_eq!(
        [cache.length(0), cache.length(1), cache.length(2)],
        [4, 0, 5]
    );
    let _ = forward(&[0], 4, 1, &mut cache);
    let found = forward(&[2, 0], 5, count - 5, &mut cache);
    for row in 0..2 {
        let expected = expected.narrow(1, 5, count - 5).squeeze_dim(0);
        assert_close("slots", &found.get(row), &expected);
    }
    let sized = |size: &[i64]| Tensor::zeros(size, (Kind::Int64, tch::Device::Cpu));
    let refused = |positions: Option<&Tensor>, mask: Option<&Tensor>| {
        let args = ForwardArgs {
            positions,
            mask,
            ..ForwardArgs::of_tokens(&tokens)
        };
        decoder.forward(args).is_err()
    };
    assert!(refused(Some(&sized(&[1, 1, 3])), None) && refused(None, Some(&sized(&[1, 1, 3, 3]))));
    assert!(refused(Some(&sized(&[2, 1, count])), None));
}

/// What training will differentiate gives the same states, and gradients reach the embeddings.
#[test]
fn hidden_states_can_be_differentiated() {
    for case in ["language-qwen2", "language-qwen3moe"] {
        let expected = {
            let model = load(case);
            let tokens = io(case)["prompt.0"].unsqueeze(0);
            model
                .decoder()
                .forward(ForwardArgs::of_tokens(&tokens))
                .unwrap()
        };
        with_gradients(|| {
            let model = load(case);
            let tokens = io(case)["prompt.0"].unsqueeze(0);
            let rows = model
                .decoder()
                .embed(&tokens)
                .unwrap()
                .detach()
                .set_requires_grad(true);
            let hidden = model.decoder().forward(ForwardArgs {
                input: Input::Embeddings(&rows),
                ..ForwardArgs::of_tokens(&tokens)
            });
            let hidden = hidden.unwrap();
            assert_close(case, &hidden.detach(), &expected);
            hidden.square().sum(Kind::Float).backward();
            assert!(rows.grad().abs().max().double_value(&[]) > 0.0);
        });
    }
}

#[test]
fn digests_follow_what_a_model_says() {
    let folder = tempfile::tempdir().unwrap();
    for file in std::fs::read_dir(golden("language-qwen3")).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), folder.path().join(file.file_name())).unwrap();
    }
    let load = || LanguageModel::load(folder.path(), &LanguageSettings::default()).unwrap();
    let digest = load().digest().unwrap();
    assert_eq!(
        digest,
        super::goldens::load("language-qwen3").digest().unwrap()
    );
    std::fs::write(folder.path().join("chat_template.jinja"), "{{ messages }}").unwrap();
    assert_ne!(load().digest().unwrap(), digest);
    std::fs::remove_file(folder.path().join("chat_template.jinja")).unwrap();
    let error = load().chat_template().map(drop).unwrap_err().to_string();
    assert!(error.contains("no chat template"), "{error}");
}

/// bf16 weights compute in f32 on the CPU.
#[test]
fn weights_may_stay_small() {
    let settings = LanguageSettings {
        kind: Kind::BFloat16,
        ..Default::default()
    };
    let model = LanguageModel::load(&golden("language-qwen3"), &settings).unwrap();
    let io = io("language-qwen3");
    assert_close("bf16", &prefill(&model, &io["prompt.0"]), &io["logits"]);
    let requests = vec![request(ids(&io["prompt.0"]), Sampling::greedy(64))];
    assert_eq!(texts(&model, 1, requests)[0].tokens, ids(&io["greedy.0"]));
}
