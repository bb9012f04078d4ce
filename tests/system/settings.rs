//! Wrong settings: exit code 78, with the place and the nearest name.

use crate::harness::{Workshop, call, finish, storyloom};

#[test]
fn unknown_options_suggest_the_nearest() {
    let shop = Workshop::new();
    let file = shop.write("c.toml", "engine = \"simulated\"\n[video]\nwidht = 64\n");
    call(&["config", "--config", &file])
        .ended_with(78)
        .saying("c.toml:3: there is no option \"video.widht\"; did you mean \"video.width\"?");
    call(&["config", "--set", "memroy.sink=2"])
        .ended_with(78)
        .saying("\"memory.sink\"");
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
        .saying("c.toml:2: run.seed must be a whole number from 0, but is the text \"lucky\"");
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
