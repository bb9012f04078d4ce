//! How ranks that somebody else started come together, and what launchers around them change.

use std::fs;
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, kill_process_group};

use crate::harness::{Finished, Ranks, Signal, Workshop, finish, send, wait_until};

/// What a shell has that `srun --pty` gave in an interactive allocation.
const SHELL_OF_A_STEP: [(&str, &str); 6] = [
    ("SLURM_JOB_ID", "7"),
    ("SLURM_STEP_ID", "0"),
    ("SLURM_PROCID", "0"),
    ("SLURM_STEP_NUM_TASKS", "1"),
    ("SLURM_LOCALID", "0"),
    ("SLURM_STEP_TASKS_LOCAL", "1"),
];

/// Stories enough for every rank.
const STORIES: [(&str, &[bool]); 4] = [
    ("a", &[true]),
    ("b", &[true]),
    ("c", &[true]),
    ("d", &[true]),
];

/// A port that is free now.
fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

/// Starts rank `rank` of `size` as a launcher does that only sets variables.
fn rank(shop: &Workshop, manifest: &str, place: (usize, usize), set: &[(&str, &str)]) -> Child {
    let (rank, size) = place;
    let mut command = shop.run(manifest, &["on_preempt=exit"]);
    command
        .envs([("RANK", rank), ("LOCAL_RANK", rank)].map(|(k, v)| (k, v.to_string())))
        .envs([("WORLD_SIZE", size), ("LOCAL_WORLD_SIZE", size)].map(|(k, v)| (k, v.to_string())))
        .envs(set.iter().copied())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command.spawn().unwrap()
}

/// How a program ended that was started before.
fn end_of(child: Child) -> Finished {
    let output = child.wait_with_output().unwrap();
    Finished {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// Logs of the ranks of all worlds on the folder of the shop.
fn logs(shop: &Workshop, rank: usize) -> usize {
    let names = fs::read_dir(shop.out().join("logs")).unwrap().flatten();
    let wanted = format!(".rank-{rank}.");
    let names = names.map(|entry| entry.file_name().into_string().unwrap());
    names.filter(|name| name.contains(&wanted)).count()
}

/// Starts ranks in this order with these variables, and waits until they have made the stories as
/// one world.
#[track_caller]
fn come_together(order: &[usize], set: &[(&str, &str)], source: &str) {
    let shop = Workshop::new();
    let manifest = shop.manifest(&STORIES);
    let start = |&number: &usize| rank(&shop, &manifest, (number, order.len()), set);
    let ranks: Vec<Child> = order.iter().map(start).collect();
    for rank in ranks {
        end_of(rank)
            .ended_with(0)
            .saying(&format!("of {}, ", order.len()))
            .saying(&format!("by {source}"));
    }
    for rank in 0..order.len() {
        assert_eq!(logs(&shop, rank), 1, "one world has one rank {rank}");
    }
    shop.digest();
}

#[test]
fn ranks_of_the_environment_are_a_world() {
    let port = free_port().to_string();
    let at = |host| [("MASTER_ADDR", host), ("MASTER_PORT", port.as_str())];
    come_together(&[0, 1], &at("127.0.0.1"), "RANK and WORLD_SIZE");
    // The first comes last, and the place has a name.
    come_together(&[2, 1, 0], &at("localhost"), "RANK and WORLD_SIZE");
}

#[test]
fn the_name_of_a_machine_and_ipv6_are_places_too() {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    for host in [name.trim(), "::1"] {
        // Not every machine has an address for its name, or IPv6.
        if TcpListener::bind((host, 0)).is_err() {
            eprintln!("skipped: nothing listens at {host} here");
            continue;
        }
        let port = free_port().to_string();
        let set = [("MASTER_ADDR", host), ("MASTER_PORT", port.as_str())];
        come_together(&[1, 0], &set, "RANK and WORLD_SIZE");
    }
}

/// The agent of torchrun listens at `MASTER_PORT` itself, in whose place the test listens.
#[test]
fn torchruns_workers_are_a_world() {
    let agent = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = agent.local_addr().unwrap().port().to_string();
    let set = [
        ("MASTER_ADDR", "127.0.0.1"),
        ("MASTER_PORT", port.as_str()),
        ("TORCHELASTIC_RUN_ID", "none"),
        ("TORCHELASTIC_RESTART_COUNT", "0"),
        ("TORCHELASTIC_MAX_RESTARTS", "0"),
        ("TORCHELASTIC_USE_AGENT_STORE", "True"),
        ("GROUP_RANK", "0"),
        ("GROUP_WORLD_SIZE", "1"),
        ("ROLE_RANK", "0"),
        ("ROLE_WORLD_SIZE", "2"),
        ("OMP_NUM_THREADS", "1"),
    ];
    come_together(&[0, 1], &set, "torchrun");
    agent.set_nonblocking(true).unwrap();
    let called = agent.accept();
    assert!(
        called.is_err(),
        "the store of torchrun was asked: {called:?}"
    );
}

#[test]
fn the_nearest_launcher_counts() {
    let port = free_port().to_string();
    let set = [("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", &port)];
    let set = [&SHELL_OF_A_STEP[..], &set].concat();
    come_together(&[0, 1], &set, "RANK and WORLD_SIZE");

    let outer = [
        &SHELL_OF_A_STEP[..],
        &[("PMIX_RANK", "0"), ("PMI_RANK", "0"), ("PMI_SIZE", "1")],
    ];
    let shop = Workshop::new();
    let manifest = shop.manifest(&STORIES);
    let mut launch = shop.run_on(Ranks::Launch(2), "simulated", &manifest, &[]);
    let seen = finish(launch.envs(outer.concat()))
        .ended_with(0)
        .saying("rank 1 of 2, 1 of 2 on this machine, by storyloom launch");
    // What a launcher tells its ranks is no stray variable of somebody.
    assert!(!seen.stderr.contains("STORYLOOM_"), "{}", seen.stderr);
}

#[test]
fn ranks_that_contradict_each_other_are_told() {
    let shop = Workshop::new();
    let manifest = shop.manifest(&STORIES);
    let port = free_port().to_string();
    let set = [("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", &port[..])];
    let first = rank(&shop, &manifest, (0, 2), &set);
    let wrong = rank(&shop, &manifest, (1, 3), &set);
    end_of(wrong)
        .ended_with(78)
        .saying("it waits for 2 ranks, and this is rank 1 of 3");
    // The world still comes together.
    end_of(rank(&shop, &manifest, (1, 2), &set)).ended_with(0);
    end_of(first).ended_with(0);
}

#[test]
fn ranks_that_encrypt_are_a_world() {
    let port = free_port().to_string();
    let set = [
        ("MASTER_ADDR", "127.0.0.1"),
        ("MASTER_PORT", &port[..]),
        ("STORYLOOM_TOPOLOGY_ENCRYPTION", "noise"),
        ("STORYLOOM_TOKEN", "as long and random as it takes"),
    ];
    come_together(&[1, 0], &set, "RANK and WORLD_SIZE");
    let shop = Workshop::new();
    let manifest = shop.manifest(&STORIES);
    end_of(rank(&shop, &manifest, (0, 2), &set[..3]))
        .ended_with(78)
        .saying("give all of them the same STORYLOOM_TOKEN");
    let first = rank(&shop, &manifest, (0, 2), &set);
    let plain = [set[0], set[1], set[3]];
    end_of(rank(&shop, &manifest, (1, 2), &plain))
        .ended_with(78)
        .saying("which is \"noise\" there and \"none\" here");
    end_of(rank(&shop, &manifest, (1, 2), &set)).ended_with(0);
    end_of(first).ended_with(0);
}

/// A rank that cannot go on takes the others with it, and all end with its code.
#[test]
fn all_ranks_end_with_the_most_severe_code() {
    let shop = Workshop::new();
    let manifest = shop.manifest(&STORIES);
    let port = free_port().to_string();
    let set = [("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", &port[..])];
    let first = rank(&shop, &manifest, (0, 2), &set);
    let lost = rank(&shop, "/nowhere.jsonl", (1, 2), &set);
    let lost = end_of(lost).saying("/nowhere.jsonl").code;
    assert!(![None, Some(0), Some(75)].contains(&lost), "{lost:?}");
    assert_eq!(end_of(first).code, lost);
}

/// Stopped while they wait for a rank that does not come: nothing was begun.
#[test]
fn who_waits_for_others_can_be_stopped() {
    let shop = Workshop::new();
    let manifest = shop.manifest(&STORIES);
    let port = free_port();
    let text = port.to_string();
    let set = [("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", text.as_str())];
    let mut first = rank(&shop, &manifest, (0, 2), &set);
    wait_until(&mut first, || {
        TcpStream::connect(("127.0.0.1", port)).is_ok()
    });
    send(Signal::TERM, first.id());
    end_of(first).ended_with(75);
    assert!(!shop.is_begun());
}

/// What a rank must end within that does not wait for ever.
const SOON: Duration = Duration::from_secs(60);

/// How a program ended, or nothing if it goes on.
fn end_soon(mut child: Child) -> Option<Finished> {
    let begun = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if begun.elapsed() > SOON {
            child.kill().unwrap();
            child.wait().unwrap();
            return None;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Some(end_of(child))
}

/// Two ranks of which the second is stopped in the middle, as if its machine had lost its power: the
/// first makes all stories alone and then waits for the other.
fn left_alone(shop: &Workshop, limit: &str) -> (Child, Child) {
    let stories = [("a", &[true; 3][..]), ("b", &[true; 3])];
    let manifest = shop.manifest(&stories);
    let port = free_port().to_string();
    let start = |number: usize| {
        let mut command = shop.run(
            &manifest,
            &[
                "simulated.step_ms=100",
                "run.lease_timeout=2",
                "simulated.videos=false",
                "on_preempt=exit",
                &format!("topology.collective_timeout={limit}"),
            ],
        );
        command
            .envs([("RANK", number), ("WORLD_SIZE", 2)].map(|(k, v)| (k, v.to_string())))
            .envs([("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", &port)])
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        command.spawn().unwrap()
    };
    let mut ranks = [0, 1].map(start);
    wait_until(&mut ranks[1], || shop.commits() > 0);
    send(Signal::STOP, ranks[1].id());
    wait_until(&mut ranks[0], || shop.commits() == 6);
    let [first, second] = ranks;
    (first, second)
}

/// The end of a world has a deadline like everything else.
#[test]
fn ranks_that_vanish_are_not_waited_for_at_the_end() {
    let shop = Workshop::new();
    let (first, mut second) = left_alone(&shop, "4");
    let ended = end_soon(first);
    second.kill().unwrap();
    second.wait().unwrap();
    ended
        .expect("it waits for ever")
        .ended_with(75)
        .saying("no sign of rank 1");
    shop.ask(&["verify", "--quick"]).ended_with(0);
}

/// One signal ends a rank that waits for one that is gone, however patient it is.
#[test]
fn one_signal_ends_the_wait_for_ranks_that_vanished() {
    let shop = Workshop::new();
    let (mut first, mut second) = left_alone(&shop, "3600");
    let is_done = || {
        let status = shop.ask(&["status", "--json"]).json();
        status["stories"]["done"] == 2
    };
    wait_until(&mut first, is_done);
    send(Signal::TERM, first.id());
    let ended = end_soon(first);
    second.kill().unwrap();
    second.wait().unwrap();
    ended.expect("it heeds no signal").ended_with(75);
}

/// Strangers at the meeting place, who say nothing or one letter now and then.
#[test]
fn strangers_keep_no_world_from_coming_together() {
    let shop = Workshop::new();
    let manifest = shop.manifest(&STORIES);
    let port = free_port();
    let text = port.to_string();
    let set = [
        ("MASTER_ADDR", "127.0.0.1"),
        ("MASTER_PORT", text.as_str()),
        ("STORYLOOM_TOKEN", "open-sesame"),
    ];
    let mut first = rank(&shop, &manifest, (0, 2), &set);
    let call = || TcpStream::connect(("127.0.0.1", port));
    wait_until(&mut first, || call().is_ok());
    let silent: Vec<_> = (0..100).map(|_| call().unwrap()).collect();
    let mut slow = call().unwrap();
    let letters = std::thread::spawn(move || {
        while slow.write_all(b"s").is_ok() {
            std::thread::sleep(Duration::from_millis(100));
        }
    });
    let second = rank(&shop, &manifest, (1, 2), &set);
    for rank in [first, second] {
        let ended = end_soon(rank).expect("it never came together");
        let ended = ended.ended_with(0).saying("of 2, ");
        assert!(!ended.stderr.contains("sesame"), "{}", ended.stderr);
    }
    letters.join().unwrap();
    drop(silent);
    assert_eq!(logs(&shop, 1), 1);
}

/// Processes that have `text` in their command line.
fn processes_with(text: &str) -> Vec<u32> {
    let all = fs::read_dir("/proc").unwrap().flatten();
    let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let has = |pid: &u32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains(text)
    };
    pids.filter(has).collect()
}

/// Whenever a launcher is killed, its ranks end with it: before they have asked to be told of its
/// death as well.
#[test]
fn no_rank_outlives_its_launcher() {
    for delay in [0, 30, 60, 100, 150, 200, 300, 500, 1000] {
        let shop = Workshop::new();
        let manifest = shop.manifest(&[("a", &[true; 40]), ("b", &[true; 40])]);
        let mut command = shop.run_on(Ranks::Launch(3), "simulated", &manifest, &SLOW);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let mut launcher = command.spawn().unwrap();
        std::thread::sleep(Duration::from_millis(delay));
        launcher.kill().unwrap();
        launcher.wait().unwrap();
        let out = shop.out().display().to_string();
        let begun = Instant::now();
        loop {
            let left = processes_with(&out);
            if left.is_empty() {
                break;
            }
            if begun.elapsed() > SOON / 2 {
                for &rank in &left {
                    send(Signal::KILL, rank);
                }
                panic!("after {delay} ms: {left:?} outlive their launcher");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Ranks that nobody told where to meet, as those of a build without MPI under `mpirun`: one of them
/// says so for all.
#[test]
fn ranks_without_a_place_say_it_once() {
    let shop = Workshop::new();
    let manifest = shop.manifest(&STORIES);
    let ends = [0, 1, 2].map(|number| rank(&shop, &manifest, (number, 3), &[]));
    let said: String = ends
        .map(|child| end_of(child).ended_with(78).stderr)
        .concat();
    assert_eq!(
        said.matches("MASTER_ADDR and MASTER_PORT").count(),
        1,
        "{said}"
    );
}

/// Starts a program as the head of a process group, with these signals ignored as `nohup` and shells
/// ignore them.
fn ignoring(signals: &str, command: &Command) -> Child {
    let mut shell = Command::new("/bin/sh");
    shell
        .args(["-c", &format!("trap '' {signals}; exec \"$@\""), "sh"])
        .arg(command.get_program())
        .args(command.get_args())
        .env("OMP_NUM_THREADS", "1")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .process_group(0);
    shell.spawn().unwrap()
}

fn send_to_group(signal: Signal, child: &Child) {
    let group = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    kill_process_group(group, signal).unwrap();
}

/// A few shots of a second each: work is left after the first.
const SLOW: [&str; 2] = ["simulated.step_ms=100", "storymem.steps=5"];

#[test]
fn ignored_signals_stay_ignored() {
    for (ranks, signals, sent) in [
        (Ranks::Alone, "HUP", Signal::HUP),
        (Ranks::Launch(2), "HUP", Signal::HUP),
        // What a shell starts in the background ignores Ctrl-C.
        (Ranks::Launch(2), "INT", Signal::INT),
        (Ranks::Alone, "TERM INT", Signal::TERM),
    ] {
        let shop = Workshop::new();
        let manifest = shop.manifest(&[("a", &[true; 4]), ("b", &[true; 4])]);
        let command = shop.run_on(ranks, "simulated", &manifest, &SLOW);
        let mut program = ignoring(signals, &command);
        wait_until(&mut program, || shop.commits() > 0);
        send_to_group(sent, &program);
        end_of(program).ended_with(0);
    }
}

/// Ctrl-C goes to the whole group of the terminal: it counts once, saves, and gives the prompt back
/// in an allocation of Slurm too.
#[test]
fn one_ctrl_c_saves_and_ends() {
    for ranks in [Ranks::Alone, Ranks::Launch(2)] {
        let shop = Workshop::new();
        let manifest = shop.manifest(&[("a", &[true; 40]), ("b", &[true; 40])]);
        let mut command = shop.run_on(ranks, "simulated", &manifest, &SLOW);
        command
            .envs(SHELL_OF_A_STEP)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .process_group(0);
        let mut program = command.spawn().unwrap();
        wait_until(&mut program, || shop.commits() > 0);
        send_to_group(Signal::INT, &program);
        end_of(program)
            .ended_with(75)
            .saying("everything is saved, run the same command again");
    }
}

/// A world under `launch` whose ranks heed nothing is ended after the second request.
#[test]
fn the_second_request_ends_a_world_that_hangs() {
    let shop = Workshop::new();
    let manifest = shop.manifest(&[("a", &[true; 40]), ("b", &[true; 40])]);
    let mut command = shop.run_on(Ranks::Launch(2), "simulated", &manifest, &SLOW);
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    let mut program = command.spawn().unwrap();
    wait_until(&mut program, || shop.commits() > 0);
    let ranks = crate::world::children(program.id());
    for &rank in &ranks {
        send(Signal::STOP, rank);
    }
    send(Signal::INT, program.id());
    // Equal signals that wait to be heard are one.
    send(Signal::TERM, program.id());
    end_of(program).ended_with(75);
    for rank in ranks {
        assert!(!std::path::Path::new(&format!("/proc/{rank}")).exists());
    }
}

/// Ctrl-Z stops the ranks with their launcher, and `fg` wakes them.
#[test]
fn a_world_sleeps_with_its_launcher() {
    let shop = Workshop::new();
    let manifest = shop.manifest(&[("a", &[true; 4]), ("b", &[true; 4])]);
    let mut command = shop.run_on(Ranks::Launch(2), "simulated", &manifest, &SLOW);
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    let mut program = command.spawn().unwrap();
    wait_until(&mut program, || shop.commits() > 0);
    let ranks = crate::world::children(program.id());
    let everybody: Vec<u32> = ranks.into_iter().chain([program.id()]).collect();
    send(Signal::TSTP, program.id());
    let sleeps = |pid: u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let (_, state) = stat.rsplit_once(") ").unwrap();
        state.starts_with('T')
    };
    wait_until(&mut program, || everybody.iter().all(|&pid| sleeps(pid)));
    send(Signal::CONT, program.id());
    end_of(program).ended_with(0);
}

/// Variables that Kubernetes or people name like ours stop nothing; slips do.
#[test]
fn variables_of_others_stop_nothing() {
    let shop = Workshop::new();
    let manifest = shop.manifest(&[("a", &[true])]);
    let mut run = shop.run(&manifest, &[]);
    run.envs([
        ("STORYLOOM_SERVICE_HOST", "10.3.0.9"),
        ("STORYLOOM_SERVICE_PORT", "9464"),
        ("STORYLOOM_PORT", "tcp://10.3.0.9:9464"),
        ("STORYLOOM_PORT_9464_TCP", "tcp://10.3.0.9:9464"),
        ("STORYLOOM_PORT_9464_TCP_ADDR", "10.3.0.9"),
        ("STORYLOOM_METRICS_PORT", "tcp://10.3.0.9:9464"),
        ("STORYLOOM_RUN", "/shared/run"),
        ("STORYLOOM_TOKEN", "t"),
    ]);
    let quiet = finish(&mut run).ended_with(0);
    assert!(!quiet.stderr.contains("STORYLOOM_"), "{}", quiet.stderr);
    finish(shop.run(&manifest, &[]).env("STORYLOOM_FLAVOUR", "mint"))
        .ended_with(0)
        .saying("STORYLOOM_FLAVOUR is no option and changes nothing");
    finish(shop.run(&manifest, &[]).env("STORYLOOM_VIDEO_WIDHT", "96"))
        .ended_with(78)
        .saying("did you mean \"STORYLOOM_VIDEO_WIDTH\"?");
}
