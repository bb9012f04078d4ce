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

#[test]
fn figures_are_json() {
    let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden");
    let clip = [
        "--width",
        "64",
        "--height",
        "48",
        "--frames",
        "5",
        "--repeats",
        "1",
        "--model",
    ];
    let bench = |what: &str, model: &str| {
        let model = format!("{golden}/{model}");
        let arguments = [&["bench", what], &clip[..], &[&model]].concat();
        call(&arguments).ended_with(0).json()
    };
    assert_eq!(bench("denoise", "dit-t2v/transformer")["tokens"], 2 * 3 * 4);
    assert!(
        bench("decode", "vae21/vae")["frames_per_second"]
            .as_f64()
            .unwrap()
            > 0.0
    );
    assert!(
        bench("load", "dit-t2v/transformer")["bytes"]
            .as_u64()
            .unwrap()
            > 0
    );
    call(&["bench", "denoise", "--model", "/nowhere"])
        .ended_with(78)
        .saying("/nowhere");
    call(&["bench", "decode", "--model", "/nowhere", "--frames", "4"]).ended_with(2);
}
