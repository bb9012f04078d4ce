//! `doctor`, and machines where something is missing.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

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

/// The doctor tries the storage of a run folder that is yet to be made, and leaves nothing.
#[test]
fn the_doctor_tries_the_storage_of_a_run() {
    let shop = Workshop::new();
    let out = shop.path("run/out").display().to_string();
    let findings = call(&["doctor", "--json", "--out", &out])
        .ended_with(0)
        .json();
    let findings = findings.as_array().unwrap();
    let storage = findings.iter().find(|finding| finding["name"] == "storage");
    assert_eq!(storage.unwrap()["state"], "ok", "{findings:?}");
    assert_eq!(fs::read_dir(shop.path("")).unwrap().count(), 0);
    // A file system without files to write.
    call(&["doctor", "--out", "/proc/run"]).ended_with(69);
}

#[test]
fn ids_that_some_storage_takes_for_one_are_told() {
    let shop = Workshop::new();
    let manifest = shop.manifest(&[("Ad", &[true]), ("ad", &[true])]);
    let wanted = "the ids \"ad\" and \"Ad\" of line 1 differ only in case";
    call(&["validate", &manifest]).ended_with(0).saying(wanted);
    finish(&mut shop.run(&manifest, &[]))
        .ended_with(0)
        .saying(wanted);
    let hidden = fs::read_dir(shop.out()).unwrap();
    let hidden = hidden.filter(|entry| {
        entry
            .as_ref()
            .unwrap()
            .file_name()
            .to_string_lossy()
            .starts_with(".unf")
    });
    assert_eq!(hidden.count(), 0);
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

/// An ffmpeg that starts and has everything but the encoder, as that of many conda environments.
#[test]
fn an_ffmpeg_without_x264_is_found_out_before_a_shot_is_paid_for() {
    let shop = Workshop::new();
    let folder = shop.path("bin");
    std::fs::create_dir(&folder).unwrap();
    let path = std::env::var("PATH").unwrap();
    let script = format!(
        "#!/bin/sh\n\
         for argument in \"$@\"; do\n\
         [ \"$argument\" = libx264 ] && echo \"Unknown encoder 'libx264'\" >&2 && exit 8\n\
         done\n\
         PATH='{path}' exec ffmpeg \"$@\"\n"
    );
    std::fs::write(folder.join("ffmpeg"), script).unwrap();
    std::fs::set_permissions(folder.join("ffmpeg"), Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{path}", folder.display());

    let sick = finish(storyloom(["doctor"]).env("PATH", &path)).ended_with(69);
    assert!(sick.stdout.contains("libx264"), "{}", sick.stdout);
    let manifest = shop.manifest(&[("a", &[true]), ("b", &[true])]);
    finish(shop.run(&manifest, &[]).env("PATH", &path))
        .ended_with(69)
        .saying("libx264");
    assert!(!shop.is_begun(), "no story was begun");
    finish(&mut shop.run(&manifest, &[])).ended_with(0);
    shop.digest();
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

#[test]
fn a_transformer_needs_no_file_to_be_timed() {
    let shop = Workshop::new();
    let clip = ["--width", "64", "--height", "48", "--frames", "5"];
    let bench = |more: &[&str]| {
        let start = ["bench", "denoise", "--repeats", "1"];
        call(&[&start[..], &clip, more].concat())
    };
    for more in [&["--random", "tiny"][..], &["--random", "tiny", "--plain"]] {
        let figures = bench(more).ended_with(0).json();
        assert_eq!(figures["tokens"], 2 * 3 * 4);
        assert_eq!(figures["settings"]["device"], "cpu");
        let seconds = &figures["parts"]["seconds"];
        let attention = seconds["self_attention"].as_f64().unwrap();
        assert!(attention > 0.0 && attention < seconds["total"].as_f64().unwrap());
    }
    let config = shop.path("config.json");
    let text = r#"{"_class_name": "WanTransformer3DModel", "num_attention_heads": 1,
        "attention_head_dim": 12, "num_layers": 1, "ffn_dim": 24, "text_dim": 8}"#;
    std::fs::write(&config, text).unwrap();
    let config = config.to_str().unwrap();
    assert!(bench(&["--random", config]).ended_with(0).json()["parameters"].as_u64() > Some(0));
    bench(&["--random", "large"])
        .ended_with(2)
        .saying("t2v-a14b");
    bench(&["--random", "tiny", "--model", config]).ended_with(2);
    bench(&[]).ended_with(2).saying("--random");
}

/// A machine with a GPU answers otherwise.
#[test]
fn without_a_gpu_what_needs_one_says_so() {
    let findings = call(&["doctor", "--json"]).ended_with(0).json();
    let mut all = findings.as_array().unwrap().iter();
    let cuda = all.find(|finding| finding["name"] == "cuda").unwrap();
    assert!(all.any(|finding| finding["name"] == "nvrtc"));
    if cuda["state"] == "ok" {
        eprintln!("skipped: what is said without a GPU; there is one");
        return;
    }
    let denoise = ["bench", "denoise", "--random", "tiny", "--device", "cuda"];
    for command in [&["bench", "kernels"][..], &denoise] {
        call(command).ended_with(78).saying("storyloom doctor");
    }
}

/// A file system of its own, unmounted at the end.
struct SmallDisk(std::path::PathBuf);

impl SmallDisk {
    /// `None` where nothing may be mounted.
    fn new(path: std::path::PathBuf, size: &str) -> Option<Self> {
        std::fs::create_dir(&path).unwrap();
        let disk = Self(path);
        disk.mount(&format!("size={size}")).then_some(disk)
    }

    fn mount(&self, options: &str) -> bool {
        let mut mount = Command::new("mount");
        mount
            .args(["-t", "tmpfs", "-o", options, "tmpfs"])
            .arg(&self.0);
        mount
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount")
            .arg(&self.0)
            .stderr(Stdio::null())
            .status();
    }
}

#[test]
fn a_full_disk_ends_the_run_and_room_lets_it_go_on() {
    let shop = Workshop::new();
    let manifest = shop.manifest(&[("a", &[true; 6]), ("b", &[true; 6])]);
    let Some(disk) = SmallDisk::new(shop.out(), "700k") else {
        eprintln!("skipped: a full disk needs the right to mount one");
        return;
    };
    // With the default index: its own files must not be what is in the way.
    let run = || finish(&mut shop.run(&manifest, &["memory.backend=redb"]));
    run()
        .ended_with(74)
        .saying("No space left")
        .saying(" are free in ");
    let before = shop.products();
    let commits: Vec<_> = before
        .keys()
        .filter(|path| path.parent().unwrap().ends_with("commits"))
        .collect();
    assert!(!commits.is_empty());
    assert!(disk.mount("remount,size=64m"));
    run().ended_with(0);
    let after = shop.products();
    for commit in commits {
        assert_eq!(
            before[commit],
            after[commit],
            "{} was lost",
            commit.display()
        );
    }
    shop.digest();
}

#[test]
fn a_read_only_folder_is_told_and_left_alone() {
    let shop = Workshop::new();
    let manifest = shop.manifest(&[("a", &[true; 2])]);
    let Some(disk) = SmallDisk::new(shop.out(), "64m") else {
        eprintln!("skipped: a read-only folder needs the right to mount one");
        return;
    };
    finish(&mut shop.run(&manifest, &[])).ended_with(0);
    let before = shop.products();
    std::fs::remove_file(shop.out().join("stories/a/commits/01_02.json")).unwrap();
    assert!(disk.mount("remount,ro"));
    finish(&mut shop.run(&manifest, &[]))
        .ended_with(74)
        .saying("Read-only file system");
    shop.ask(&["status", "--json"]).ended_with(0);
    assert!(disk.mount("remount,rw"));
    finish(&mut shop.run(&manifest, &[])).ended_with(0);
    assert_eq!(shop.products().len(), before.len());
    shop.digest();
}

#[test]
fn what_kills_cost_depends_on_the_level() {
    let shop = Workshop::new();
    let dir = shop.path("bench");
    std::fs::create_dir(&dir).unwrap();
    let trace = shop.write("trace.json", "[0.6, 0.9]");
    let sizes = [
        "--stories",
        "1",
        "--shots",
        "2",
        "--steps",
        "4",
        "--step-ms",
        "100",
    ];
    let mut command = storyloom(["bench", "preempt", "--trace", &trace, "--dir"]);
    let figures = finish(command.arg(&dir).args(sizes)).ended_with(0).json();
    let levels: Vec<_> = figures["levels"].as_array().unwrap().iter().collect();
    let names: Vec<_> = levels.iter().map(|level| &level["level"]).collect();
    assert_eq!(names, ["step", "shot", "story"]);
    for level in levels {
        assert!(level["paid_seconds"].as_f64().unwrap() > 0.0, "{level}");
    }
    assert_eq!(std::fs::read_dir(dir).unwrap().count(), 0, "it tidies up");
    call(&["bench", "preempt", "--trace", "/nowhere"]).ended_with(2);
}

#[test]
fn the_cost_of_the_ledger_is_measured() {
    let shop = Workshop::new();
    let dir = shop.path("bench");
    std::fs::create_dir(&dir).unwrap();
    for backend in ["sled", "redb"] {
        let mut command = storyloom(["bench", "store", "--shots", "5", "--stories", "100"]);
        command.args(["--backend", backend, "--dir"]).arg(&dir);
        let figures = finish(&mut command).ended_with(0).json();
        assert_eq!(figures["large"]["shots"], 1000);
        assert_eq!(figures["curve"].as_array().unwrap().len(), 3);
    }
    assert_eq!(std::fs::read_dir(dir).unwrap().count(), 0, "it tidies up");
}
