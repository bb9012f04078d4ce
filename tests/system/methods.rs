//! The methods of a run: those that are rehearsed, and what is refused without their networks.

use std::fs;

use crate::harness::{Ranks, Workshop, finish, line, of_method};

const METHODS: [&str; 4] = ["storymem", "onestory", "narrative-weaver", "moviedreamer"];

/// A manifest with a story of each method, by its name.
fn mixed(shop: &Workshop) -> String {
    let lines = METHODS.map(|method| of_method(&line(method, &[true, false, true]), method));
    shop.write("manifest.jsonl", lines.join("\n"))
}

#[test]
fn one_run_makes_stories_of_every_method() {
    let alone = Workshop::new();
    let manifest = mixed(&alone);
    finish(&mut alone.run(&manifest, &[])).ended_with(0);
    let wanted = alone.digest();
    let status = alone.ask(&["status", "--json"]).ended_with(0).json();
    for method in METHODS {
        assert_eq!(status["methods"][method]["done"], 1, "{method}");
        let record = alone
            .out()
            .join(format!("stories/{method}/commits/01_03.json"));
        let record: serde_json::Value = serde_json::from_slice(&fs::read(record).unwrap()).unwrap();
        let format = if method == "storymem" { 1 } else { 2 };
        assert_eq!(
            (&record["format"], &record["request"]["method"]),
            (&format.into(), &method.into())
        );
    }
    alone.ask(&["report"]).ended_with(0);
    // The same on two ranks, and once more on what is there.
    let ranks = Workshop::new();
    for _ in 0..2 {
        finish(&mut ranks.run_on(Ranks::Launch(2), "simulated", &manifest, &[])).ended_with(0);
        assert_eq!(ranks.digest(), wanted);
    }
}

#[test]
fn a_method_without_networks_is_refused_before_anything_loads() {
    let shop = Workshop::new();
    let manifest = mixed(&shop);
    let refused = finish(&mut shop.run_with("torch", &manifest, &["models.dir=/nowhere"]));
    let refused = refused.ended_with(65);
    for words in [
        "manifest.jsonl:2",
        "manifest.jsonl:3",
        "manifest.jsonl:4",
        "onestory",
    ] {
        assert!(
            refused.stderr.contains(words),
            "{words}: {}",
            refused.stderr
        );
    }
    let option = finish(&mut shop.run_with("torch", &manifest, &["method=onestory"]));
    let option = option.ended_with(78);
    assert!(
        option.stderr.contains("engine = \"simulated\""),
        "{}",
        option.stderr
    );
    assert!(!shop.out().exists());
}
