//! `doctor`, and machines where something is missing.

use crate::harness::{Workshop, call, finish, storyloom};

#[test]
fn the_doctor_finds_what_the_tests_run_with() {
    let findings = call(&["doctor", "--json"]).ended_with(0).json();
    let state = |name: &str| {
        let all = findings.as_array().unwrap();
        all.iter().find(|finding| finding["name"] == name).unwrap()["state"].clone()
    };
    for name in ["libtorch", "ffmpeg", "cores", "memory", "disk"] {
        assert_eq!(state(name), "ok", "{name}");
    }
}

#[test]
fn without_ffmpeg_the_doctor_says_how_to_get_it_and_no_run_starts() {
    let shop = Workshop::new();
    let empty = shop.path("empty");
    std::fs::create_dir(&empty).unwrap();
    let sick = finish(storyloom(["doctor"]).env("PATH", &empty)).ended_with(69);
    assert!(
        sick.stdout.contains("apt-get install ffmpeg"),
        "{}",
        sick.stdout
    );
    let manifest = shop.manifest(&[("a", &[true])]);
    finish(shop.run(&manifest, &[]).env("PATH", &empty))
        .ended_with(69)
        .saying("ffmpeg");
}
