//! The methods of a run: those that are rehearsed, and what is refused without their networks.

use std::fs;

use crate::harness::{Ranks, Workshop, call, finish, line, of_method};

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
    for words in ["manifest.jsonl:3", "manifest.jsonl:4", "moviedreamer"] {
        assert!(
            refused.stderr.contains(words),
            "{words}: {}",
            refused.stderr
        );
    }
    assert!(
        !refused.stderr.contains("manifest.jsonl:2"),
        "{}",
        refused.stderr
    );
    let option = finish(&mut shop.run_with("torch", &manifest, &["method=moviedreamer"]));
    let option = option.ended_with(78);
    assert!(
        option.stderr.contains("engine = \"simulated\""),
        "{}",
        option.stderr
    );
    assert!(!shop.out().exists());
}

/// Networks make the stories of one method in a run, and which one is said by the lines alone if they all say
/// the same.
#[test]
fn networks_of_two_methods_are_refused_before_anything_loads() {
    let shop = Workshop::new();
    let lines = ["storymem", "onestory"].map(|name| of_method(&line(name, &[true]), name));
    let both = shop.write("both.jsonl", lines.join("\n"));
    let nowhere = ["models.dir=/nowhere"];
    let refused = finish(&mut shop.run_with("torch", &both, &nowhere)).ended_with(65);
    for words in ["storymem and onestory", "a manifest for each"] {
        assert!(refused.stderr.contains(words), "{}", refused.stderr);
    }
    // Of one alone the checkpoints are looked for.
    let one = shop.write("one.jsonl", &lines[1]);
    finish(&mut shop.run_with("torch", &one, &nowhere)).ended_with(78);
    let empty = shop.path("empty");
    fs::create_dir(&empty).unwrap();
    let models = format!("models.dir={}", empty.display());
    let sets = ["method=onestory", "engine=torch", &models].map(|set| ["--set", set]);
    let valid = call(&[&["validate", &one], sets.as_flattened()].concat()).ended_with(0);
    assert!(
        valid.stderr.contains("onestory/onestory"),
        "{}",
        valid.stderr
    );
    let lacking = finish(&mut shop.run_with("torch", &one, &[&models])).ended_with(78);
    assert!(
        lacking.stderr.contains("onestory/onestory"),
        "{}",
        lacking.stderr
    );
}
