//! Runs on briefs: planned first, ahead of the shots, once, by any program that is there.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::SystemTime;

use serde_json::{Value, json};

use crate::harness::{
    Ranks, Signal, Workshop, call, finish, line, send, signal_when, storyloom, wait_until,
};
use crate::torch::models;

/// What plans in these tests.
const PLANNER: &str = "planner.backend=simulated";

fn brief(id: &str, shots: u32) -> String {
    json!({"id": id, "title": format!("The {id}"), "shots": shots}).to_string()
}

/// Two briefs and a story with its script between them.
fn mixed(shop: &Workshop) -> String {
    let lines = [
        brief("kettle", 2),
        line("tale", &[true, false]),
        brief("lamp", 3),
    ];
    shop.write("manifest.jsonl", lines.join("\n"))
}

fn many(shop: &Workshop) -> String {
    let lines: Vec<String> = (0..5)
        .map(|n| brief(&format!("ad-{n}"), 1 + n % 2))
        .collect();
    shop.write("manifest.jsonl", lines.join("\n"))
}

/// The digest of an undisturbed run of [`many`].
fn calm() -> String {
    let shop = Workshop::new();
    let manifest = many(&shop);
    finish(&mut shop.run(&manifest, &[PLANNER])).ended_with(0);
    shop.digest()
}

/// The plans of a run, and when they were written.
fn plans(shop: &Workshop) -> BTreeMap<PathBuf, SystemTime> {
    let stories = fs::read_dir(shop.out().join("stories"));
    let paths = stories
        .into_iter()
        .flatten()
        .map(|story| story.unwrap().path().join("plan.json"));
    paths
        .filter_map(|path| {
            let written = fs::metadata(&path).ok()?.modified().unwrap();
            Some((path, written))
        })
        .collect()
}

#[test]
fn stories_of_briefs_are_planned_made_and_proven() {
    let shop = Workshop::new();
    let manifest = mixed(&shop);
    call(&["validate", &manifest]).ended_with(0);
    let found = call(&[
        "estimate",
        "--manifest",
        &manifest,
        "--set",
        "engine=simulated",
        "--json",
    ]);
    let found = found.ended_with(0).json();
    assert_eq!(
        (&found["stories"], &found["to_plan"], &found["shots"]),
        (&3.into(), &2.into(), &7.into())
    );
    finish(&mut shop.run(&manifest, &[PLANNER])).ended_with(0);
    shop.digest();
    assert_eq!(plans(&shop).len(), 2);
    let status = shop.ask(&["status", "--json"]).ended_with(0).json();
    assert_eq!(status["plans"], json!({"total": 2, "done": 2}));
    assert_eq!(status["shots"]["done"], 7);
    shop.ask(&["report"]).ended_with(0);
    let page = fs::read_to_string(shop.out().join("report/stories/lamp.html")).unwrap();
    assert!(
        page.contains("The lamp") && page.contains("Planned in"),
        "{page}"
    );

    // Nothing is left to be planned or made.
    let before = (plans(&shop), shop.products());
    finish(&mut shop.run(&manifest, &[PLANNER])).ended_with(0);
    assert_eq!((plans(&shop), shop.products()), before);

    // The record of a shot names the plan; the plan cannot be changed unseen.
    let path = shop.out().join("stories/lamp/plan.json");
    let text = fs::read_to_string(&path).unwrap();
    let plan: Value = serde_json::from_str(&text).unwrap();
    let record = shop.out().join("stories/lamp/commits/01_03.json");
    let record: Value = serde_json::from_slice(&fs::read(record).unwrap()).unwrap();
    assert_eq!(record["plan"], plan["digest"]);
    fs::write(&path, text.replacen("Shot 1", "Shot 9", 1)).unwrap();
    let verdict = shop.ask(&["verify", "--json"]).ended_with(1).json();
    assert!(
        verdict["problems"]
            .to_string()
            .contains("changed after it was written")
    );
}

#[test]
fn a_run_that_is_killed_while_it_plans_plans_only_what_is_missing() {
    let calm = calm();
    for (signal, code) in [(Signal::KILL, None), (Signal::TERM, Some(75))] {
        let shop = Workshop::new();
        let manifest = many(&shop);
        let sets = [PLANNER, "simulated.plan_ms=1000"];
        let ended = signal_when(&mut shop.run(&manifest, &sets), signal, || {
            !plans(&shop).is_empty()
        });
        assert_eq!(ended.code, code, "{}", ended.stderr);
        let there = plans(&shop);
        assert!(there.len() < 5, "everything was planned before the end");
        finish(&mut shop.run(&manifest, &[PLANNER])).ended_with(0);
        let now = plans(&shop);
        assert_eq!(now.len(), 5);
        for (path, written) in there {
            assert_eq!(now[&path], written, "{} was made again", path.display());
        }
        assert_eq!(shop.digest(), calm);
    }
}

#[test]
fn worlds_that_share_a_folder_plan_each_story_once() {
    let shop = Workshop::new();
    let manifest = many(&shop);
    let log = shop.path("log");
    let start = || -> Child {
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(&log)
            .unwrap();
        let mut command = shop.run(&manifest, &[PLANNER, "simulated.plan_ms=60"]);
        command.env("STORYLOOM_LOG", "info,storyloom_telemetry=debug");
        command.stdout(Stdio::null()).stderr(log).spawn().unwrap()
    };
    for world in [start(), start()] {
        assert!(world.wait_with_output().unwrap().status.success());
    }
    let log = fs::read_to_string(&log).unwrap();
    assert_eq!(log.matches("planned in").count(), 5, "{log}");
    assert_eq!(shop.digest(), calm());
}

/// Ranks that only plan, beside replicas of the stand-in and of networks.
#[test]
fn planner_ranks_plan_for_all_replicas() {
    let calm = calm();
    let mut worlds = vec![
        (Ranks::Launch(3), "topology.planners=1"),
        (Ranks::Launch(3), "topology.planners=2"),
    ];
    if cfg!(feature = "mpi") {
        worlds.push((Ranks::Mpi(3), "topology.planners=1"));
    }
    for (ranks, planners) in worlds {
        let shop = Workshop::new();
        let manifest = many(&shop);
        let sets = [PLANNER, planners, "planner.ahead=1", "simulated.plan_ms=20"];
        finish(&mut shop.run_on(ranks, "simulated", &manifest, &sets)).ended_with(0);
        assert_eq!(shop.digest(), calm, "{ranks:?} {planners}");
        // Who planned, by the journals.
        let shifts = fs::read_dir(shop.out().join("logs/shifts")).unwrap();
        let mut planned = [0, 0];
        for shift in shifts {
            let path = shift.unwrap().path();
            let text = fs::read_to_string(&path).unwrap();
            let only = usize::from(text.contains("\"plans_only\":true"));
            planned[only] += text.matches("\"kind\":\"plan\"").count();
        }
        assert_eq!(planned, [0, 5], "{ranks:?} {planners}");
    }
}

#[test]
fn planner_ranks_stand_beside_replicas_of_networks() {
    let shop = Workshop::new();
    let manifest = shop.write("manifest.jsonl", brief("lamp", 2));
    let models = models();
    let sets = [
        PLANNER,
        models.as_str(),
        "topology.planners=1",
        "topology.cfg=2",
    ];
    finish(&mut shop.run_on(Ranks::Launch(3), "torch", &manifest, &sets))
        .ended_with(0)
        .saying("1 more ranks that plan stories");
    let alone = Workshop::new();
    let manifest = alone.write("manifest.jsonl", brief("lamp", 2));
    finish(&mut alone.run_with("torch", &manifest, &[PLANNER, models.as_str()])).ended_with(0);
    assert_eq!(shop.digest(), alone.digest());

    let wrong = Workshop::new();
    let mut command = wrong.run_on(Ranks::Alone, "torch", &manifest, &sets);
    finish(&mut command)
        .ended_with(78)
        .saying("beside 1 that plan; start 3 ranks");
}

/// The rules plan ads; what they cannot plan is set aside with the reason, and everything else made.
#[test]
fn the_rules_plan_ads_and_set_ideas_aside() {
    let shop = Workshop::new();
    let idea = json!({"id": "idea", "idea": "A fox folds a boat of paper.", "shots": 2});
    let lines = [brief("kettle", 2), idea.to_string(), brief("lamp", 1)];
    let manifest = shop.write("manifest.jsonl", lines.join("\n"));
    let sets = ["planner.backend=rules"];
    finish(&mut shop.run(&manifest, &sets)).ended_with(1);
    let aside = shop.ask(&["quarantine", "--json"]).ended_with(0).json();
    assert_eq!(aside[0]["story"], "idea");
    let reason = aside[0]["reason"].as_str().unwrap();
    assert!(reason.contains("language model"), "{reason}");
    let status = shop.ask(&["status", "--json"]).ended_with(0).json();
    assert_eq!(status["plans"], json!({"total": 3, "done": 2}));
    assert_eq!(status["stories"]["done"], 2);
    // Another planner does not take over in the middle of a run.
    shop.ask(&["retry"]).ended_with(0);
    finish(&mut shop.run(&manifest, &[PLANNER]))
        .ended_with(78)
        .saying("use that planner again");
    finish(&mut shop.run(&manifest, &sets)).ended_with(1);

    let ads = Workshop::new();
    let manifest = ads.write("manifest.jsonl", brief("kettle", 3));
    finish(&mut ads.run(&manifest, &sets)).ended_with(0);
    ads.digest();
    let plan = fs::read(ads.out().join("stories/kettle/plan.json")).unwrap();
    let plan: Value = serde_json::from_slice(&plan).unwrap();
    assert_eq!(plan["planner"]["backend"], "rules");
}

/// A world whose planner rank is killed ends; the next start plans the rest.
#[test]
fn a_planner_rank_that_is_killed_loses_nothing() {
    let shop = Workshop::new();
    let manifest = many(&shop);
    let sets = [PLANNER, "topology.planners=1", "simulated.plan_ms=1000"];
    let mut command = shop.run_on(Ranks::Launch(2), "simulated", &manifest, &sets);
    let mut world = command
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    wait_until(&mut world, || !plans(&shop).is_empty());
    let planner = crate::world::children(world.id())[1];
    send(Signal::KILL, planner);
    assert_eq!(world.wait().unwrap().code(), Some(75));
    let there = plans(&shop);
    finish(&mut shop.run(&manifest, &[PLANNER])).ended_with(0);
    let now = plans(&shop);
    assert!(there.iter().all(|(path, written)| now[path] == *written));
    assert_eq!(shop.digest(), calm());
}

#[test]
fn the_figures_of_a_run_on_briefs() {
    let shop = Workshop::new();
    let place = shop.write("bench/empty", "");
    let place = place.trim_end_matches("/empty");
    let more = [
        "--denoise-ms",
        "20",
        "--shots",
        "6",
        "--story",
        "2",
        "--in-flight",
        "2",
        "--plan",
        "0.2",
    ];
    let mut command = storyloom(["bench", "pipeline", "--dir", place]);
    let found = finish(command.args(more)).ended_with(0).json();
    let of_briefs = found["runs"][0]["of_briefs"].as_array().unwrap();
    let places: Vec<&str> = of_briefs
        .iter()
        .map(|run| run["planned_on"].as_str().unwrap())
        .collect();
    assert_eq!(places, ["thread", "rank"]);
    for run in of_briefs {
        assert!(run["run_seconds"].as_f64().unwrap() > 0.0);
        assert!(run["plan_seconds"].as_f64().unwrap() > 0.0);
    }
}
