//! Wrong settings: exit code 78, with the place and the nearest name.

use crate::harness::{Workshop, call, finish, line, storyloom};

/// Numbers that no machine can hold end before anything of that size is asked for.
#[test]
fn what_no_memory_can_hold_is_refused_by_name() {
    let shop = Workshop::new();
    let manifest = shop.manifest(&[("a", &[true])]);
    for (set, wanted) in [
        (
            "video.width=1600000000",
            "video.width must be 16 to 4096, but is 1600000000",
        ),
        (
            "video.height=5000",
            "video.height must be 16 to 4096, but is 5000",
        ),
        ("video.width=2", "video.width must be 16 to 4096, but is 2"),
        (
            "video.frames=4000000001",
            "video.frames must be 1 to 4097, but is 4000000001",
        ),
        (
            "planner.concurrency=4000000000",
            "planner.concurrency must be 1 to 1024",
        ),
        (
            "run.threads=18446744073709551615",
            "run.threads must be a whole number",
        ),
    ] {
        finish(&mut shop.run(&manifest, &[set]))
            .ended_with(78)
            .saying(wanted);
    }
    let all = ["video.width=4096", "video.height=4096", "video.frames=4097"];
    finish(&mut shop.run(&manifest, &all))
        .ended_with(78)
        .saying("4096x4096 pixels in 4097 frames");
    let large = line("a", &[true]).replacen('{', "{\"size\": [4096, 4096], ", 1);
    let manifest = shop.write("large.jsonl", large);
    finish(&mut shop.run(&manifest, &["video.frames=4097"]))
        .ended_with(65)
        .saying("jsonl:1: the story a is too large");
    assert!(!shop.is_begun());
}

#[test]
fn unknown_options_suggest_the_nearest() {
    let shop = Workshop::new();
    let file = shop.write("c.toml", "engine = \"simulated\"\n[video]\nwidht = 64\n");
    call(&["config", "--config", &file])
        .ended_with(78)
        .saying("c.toml:3: there is no option \"video.widht\"; did you mean \"video.width\"?");
    call(&["config", "--set", "memroy.sink=2"])
        .ended_with(78)
        .saying("\"storymem.sink\"");
    finish(storyloom(["config"]).env("STORYLOOM_ENGIN", "torch"))
        .ended_with(78)
        .saying("STORYLOOM_ENGINE");
}

#[test]
fn wrong_types_name_file_line_and_key() {
    let shop = Workshop::new();
    let file = shop.write("c.toml", "[run]\nseed = \"lucky\"\n");
    call(&["config", "--config", &file])
        .ended_with(78)
        .saying("c.toml:2: run.seed must be a whole number, 0 or more, but is the text \"lucky\"");
    call(&["config", "--config", "/nowhere.toml"])
        .ended_with(78)
        .saying("/nowhere.toml");
}

#[test]
fn layers_win_in_their_order() {
    let shop = Workshop::new();
    let file = shop.write("c.toml", "[run]\nseed = 1\nthreads = 1\nattempts = 1\n");
    let mut command = storyloom(["config", "--config", &file, "--set", "run.attempts=3"]);
    command
        .env("STORYLOOM_RUN_THREADS", "2")
        .env("STORYLOOM_RUN_ATTEMPTS", "2");
    let shown = finish(&mut command).ended_with(0).stdout;
    let run = shown.split("[run]").nth(1).unwrap();
    for wanted in ["seed = 1\n", "threads = 2\n", "attempts = 3\n"] {
        assert!(run.contains(wanted), "{shown}");
    }
}

#[test]
fn a_run_with_wrong_settings_starts_nothing() {
    let shop = Workshop::new();
    let manifest = shop.manifest(&[("a", &[true])]);
    finish(&mut shop.run(&manifest, &["video.frames=80"]))
        .ended_with(78)
        .saying("the nearest is 81");
    finish(&mut shop.run_with("torch", &manifest, &["models.dir=/nowhere"]))
        .ended_with(78)
        .saying("/nowhere");
    assert!(!shop.is_begun());
}
