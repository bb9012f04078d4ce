//! Planning before paying: `estimate`, the simulated engine with times and without videos, and the
//! figures of the pipeline and of the control plane.

use std::fs;
use std::time::Instant;

use serde_json::Value;

use crate::harness::{Finished, Workshop, call, finish, storyloom};

const STORIES: [(&str, &[bool]); 3] = [
    ("short", &[true, true]),
    ("long", &[true, false, true, true]),
    ("middle", &[true, true, true]),
];

fn estimate(shop: &Workshop, manifest: &str, more: &[&str]) -> Finished {
    let out = shop.out().display().to_string();
    let more = more
        .iter()
        .map(|&word| if word == "OUT" { &out } else { word });
    let arguments = ["estimate", "--manifest", manifest].into_iter().chain(more);
    finish(&mut storyloom(arguments))
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value}"))
}

#[test]
fn an_estimate_loads_nothing_and_names_the_best_layout() {
    let shop = Workshop::new();
    let manifest = shop.manifest(&STORIES);
    let config = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../configs/wan22-a14b-storymem.toml"
    );
    let farm = [
        "--config",
        config,
        "--gpus",
        "16",
        "--set",
        "topology.tensor=2",
    ];
    let json = [&farm[..], &["--deadline", "3h", "--json"]].concat();
    let found = estimate(&shop, &manifest, &json).ended_with(0).json();
    assert_eq!((&found["stories"], &found["shots"]), (&3.into(), &9.into()));
    assert_eq!(found["layout"]["replicas"], 8);
    assert_eq!(found["layout"]["tensor"], 2);
    assert_eq!(found["longest_chain"]["story"], "long");
    let finish_seconds = number(&found["finish_seconds"]);
    assert!(finish_seconds >= number(&found["longest_chain"]["seconds"]));
    assert!(finish_seconds >= number(&found["lower_bound_seconds"]) - 1e-6);
    let hours = 16.0 * finish_seconds / 3600.0;
    assert!((number(&found["gpu_hours"]) / hours - 1.0).abs() < 1e-6);
    assert!((0.0..=1.0).contains(&number(&found["denoiser_busy"])));
    assert!(
        number(&found["disk"]["bytes"]) > 9.0 * 8.4e6,
        "latents alone"
    );
    let soonest = &found["soonest"];
    assert!(number(&soonest["finish_seconds"]) <= finish_seconds);
    assert_eq!(soonest["fits"], true);
    let cheapest = &found["deadline"]["cheapest"];
    assert!(number(&cheapest["finish_seconds"]) <= 3.0 * 3600.0);
    assert!(number(&cheapest["gpu_hours"]) <= number(&soonest["gpu_hours"]));

    let text = estimate(&shop, &manifest, &farm).ended_with(0).stdout;
    for wanted in [
        "8 replicas x tensor 2",
        "done after",
        "GPU-hours",
        "soonest",
        "long, 4 shots",
    ] {
        assert!(text.contains(wanted), "no {wanted} in:\n{text}");
    }
    // What is printed as costs can be given back as costs.
    let costs = shop.write("costs.json", found["costs"].to_string());
    let set = format!("simulated.costs={costs}");
    let again = [&farm[..], &["--set", &set, "--json"]].concat();
    let again = estimate(&shop, &manifest, &again).ended_with(0).json();
    assert_eq!(again["finish_seconds"], found["finish_seconds"]);
}

#[test]
fn wrong_estimates_are_refused() {
    let shop = Workshop::new();
    let manifest = shop.manifest(&STORIES);
    let quick = ["--set", "engine=simulated"];
    let with = |more: &[&str]| estimate(&shop, &manifest, &[&quick[..], more].concat());
    with(&["--deadline", "soon"])
        .ended_with(2)
        .saying("8h, 90m");
    with(&["--gpus", "1", "--set", "topology.tensor=2"])
        .ended_with(78)
        .saying("a replica of this topology has 2 ranks");
    with(&["--measured", "/nowhere"])
        .ended_with(65)
        .saying("not a run folder");
    with(&["--set", "simulated.speed=0"])
        .ended_with(78)
        .saying("simulated.speed");
    let costs = shop.write("costs.toml", "[rates]\nmatmul = 3\n");
    with(&["--set", &format!("simulated.costs={costs}")])
        .ended_with(78)
        .saying("costs.toml");
    let wrong = shop.write("wrong.jsonl", "{}");
    estimate(&shop, &wrong, &[]).ended_with(65);
}

/// The same stories estimated, made at that pace, measured, and estimated again.
#[test]
fn simulated_runs_keep_the_pace_of_their_table() {
    let shop = Workshop::new();
    let manifest = shop.manifest(&STORIES);
    let costs = shop.write(
        "costs.toml",
        "[denoise]\nstep_seconds = 10.0\n[stages]\ndecode = { seconds = 20.0 }\n\
         commit = { seconds = 0.0 }\nplan = { seconds = 0.0 }\nstory = { seconds = 0.0 }\n",
    );
    let sets = [
        format!("simulated.costs={costs}"),
        "simulated.speed=100".to_owned(),
        "simulated.videos=false".to_owned(),
    ];
    let sets: Vec<&str> = sets.iter().map(String::as_str).collect();
    let small = [
        "engine=simulated",
        "video.width=64",
        "video.height=48",
        "video.frames=9",
        "video.fps=8",
        "storymem.steps=2",
        "storymem.quality_threshold=0",
        "topology.interleave=1",
    ];
    let planned = |more: &[&str]| {
        let settings = small.iter().chain(&sets).flat_map(|&set| ["--set", set]);
        let more: Vec<&str> = settings.chain(more.iter().copied()).collect();
        let found = estimate(&shop, &manifest, &[&more[..], &["--json"]].concat());
        found.ended_with(0).json()
    };
    let before = planned(&[]);
    // Nine shots, each 2 steps of 0.1 s and 0.2 s of decoding, and little else.
    let seconds = number(&before["finish_seconds"]);
    assert!((9.0 * 0.4..9.0 * 0.5).contains(&seconds), "{seconds}");
    let begun = Instant::now();
    let run = [&sets[..], &["topology.interleave=1"]].concat();
    finish(&mut shop.run(&manifest, &run)).ended_with(0);
    let real = begun.elapsed().as_secs_f64();
    let after = planned(&["--measured", "OUT"]);
    let measured = number(&after["finish_seconds"]);
    eprintln!("estimated {seconds:.2} s, measured {measured:.2} s, took {real:.2} s");
    assert!(real > 9.0 * 0.4, "the engine slept: {real}");
    assert!(measured > 9.0 * 0.4 && measured < real * 1.1, "{measured}");
    assert_eq!(planned(&["--out", "OUT"])["shots"], 0);

    let proof = shop.ask(&["verify", "--json"]).ended_with(0).json();
    assert_eq!(
        (&proof["ok"], &proof["videos"]),
        (&true.into(), &"placeholders".into())
    );
    let proof = shop.ask(&["verify"]).ended_with(0).stdout;
    assert!(proof.contains("there are no videos"), "{proof}");
    let video = fs::read_to_string(shop.out().join("stories/short/story.mp4")).unwrap();
    assert!(video.contains("no video was made"));
}

#[test]
fn a_run_without_videos_needs_no_ffmpeg() {
    let shop = Workshop::new();
    let manifest = shop.manifest(&[("a", &[true, false])]);
    let empty = shop.path("empty");
    fs::create_dir(&empty).unwrap();
    let mut run = shop.run(&manifest, &["simulated.videos=false"]);
    finish(run.env("PATH", &empty)).ended_with(0);
    finish(storyloom(["verify"]).arg(shop.out()).env("PATH", &empty)).ended_with(0);
}

#[test]
fn the_pipeline_and_the_control_plane_are_measured() {
    let shop = Workshop::new();
    let place = shop.path("bench");
    fs::create_dir(&place).unwrap();
    let dir = place.display().to_string();
    let pipeline = [
        "--denoise-ms",
        "40",
        "--steps",
        "4",
        "--shots",
        "12",
        "--in-flight",
        "1,3",
    ];
    let arguments = [&["bench", "pipeline", "--dir", &dir], &pipeline[..]].concat();
    let found = call(&arguments).ended_with(0).json();
    let runs = found["runs"].as_array().unwrap();
    assert_eq!((runs.len(), &runs[1]["in_flight"]), (2, &3.into()));
    assert_eq!(runs[0]["speedup"], 1.0);
    assert!((0.0..=1.01).contains(&number(&runs[1]["efficiency"])));

    let control = [
        "--stories",
        "12",
        "--shots",
        "3",
        "--ranks",
        "2",
        "--windows",
        "3",
    ];
    let arguments = [&["bench", "control", "--dir", &dir], &control[..]].concat();
    let found = call(&arguments).ended_with(0).json();
    assert_eq!(found["shots"], 36);
    assert_eq!(found["windows"].as_array().unwrap().len(), 3);
    assert!(number(&found["shots_per_second"]) > 0.0);
    assert_eq!(fs::read_dir(&place).unwrap().count(), 0, "nothing is left");
}
