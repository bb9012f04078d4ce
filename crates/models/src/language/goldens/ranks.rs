//! Models that several ranks share.

use storyloom_nn::shard::Peers;
use storyloom_nn::testing::on_ranks;

use super::*;

/// Layers shared by columns and rows, key heads split (2 ranks) and held by several (6 ranks):
/// the same scores on every rank, and the same texts.
#[test]
fn ranks_share_a_model() {
    for (case, ranks) in [
        ("language-qwen2", 2),
        ("language-qwen3", 2),
        ("language-qwen3moe", 2),
        ("language-qwen3", 6),
        ("language-qwen3moe", 6),
        ("language-llama2", 2),
        ("language-llama2", 3),
        (SEEING, 2),
    ] {
        let greedy = if case == SEEING {
            "plain.greedy"
        } else {
            "greedy.1"
        };
        let prompt = if case == SEEING {
            "plain.prompt"
        } else {
            "prompt.1"
        };
        let alone = prefill(&load(case), &io(case)[prompt]);
        for (logits, tokens) in on_ranks(ranks, |group| {
            let peers = Peers::new(Some(group));
            let settings = LanguageSettings {
                peers,
                ..Default::default()
            };
            let model = LanguageModel::load(&golden(case), &settings).unwrap();
            let io = io(case);
            let requests = vec![
                request(vec![3, 4, 5], Sampling::greedy(10)),
                request(ids(&io[prompt]), Sampling::greedy(64)),
            ];
            let logits = prefill(&model, &io[prompt]);
            if !model.peers().leads() {
                // One batch of the leader, to its end.
                model.follow().unwrap();
                return (logits, None);
            }
            let tokens = texts(&model, 2, requests).remove(1).tokens;
            (logits, Some(tokens))
        }) {
            assert_close(case, &logits, &alone);
            if let Some(tokens) = tokens {
                assert_eq!(tokens, ids(&io(case)[greedy]), "{case}");
            }
        }
    }
}

#[test]
fn ranks_that_cannot_share_say_so() {
    let errors = on_ranks(5, |group| {
        let peers = Peers::new(Some(group));
        let settings = LanguageSettings {
            peers,
            ..Default::default()
        };
        let model = LanguageModel::load(&golden("language-qwen3"), &settings);
        model.map(drop).unwrap_err().to_string()
    });
    assert!(
        errors[0].contains("5 ranks cannot share 6 heads"),
        "{}",
        errors[0]
    );
}
