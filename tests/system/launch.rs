//! The files that start worlds on a farm (`launch/`): read as their schedulers read them, run with
//! stand-ins for mpirun, srun and scontrol, and the commands they end in given to the real binary.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::{Finished, Workshop, call, finish, storyloom};

const SHELL: [&str; 2] = ["mpirun.sh", "slurm.sbatch"];
const INDEXED_JOB: &str = "kubernetes/indexed-job.yaml";
const MPI_JOB: &str = "kubernetes/mpijob.yaml";

/// Nothing here takes long; what does has hung.
const TIMEOUT: Duration = Duration::from_secs(60);

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../launch")
}

fn template(name: &str) -> String {
    fs::read_to_string(folder().join(name)).unwrap()
}

/// Lines of a shell file without comments, those that `\` continues joined.
fn shell_lines(text: &str) -> Vec<String> {
    let commands = text.lines().filter(|line| !line.trim().starts_with('#'));
    let joined = commands.collect::<Vec<_>>().join("\n").replace("\\\n", " ");
    let lines = joined.lines().filter(|line| !line.trim().is_empty());
    lines.map(str::to_owned).collect()
}

/// The exit codes that `storyloom --help` lists, with their meaning.
fn exit_codes() -> BTreeMap<i32, String> {
    let help = call(&["--help"]).ended_with(0).stdout;
    let table = help.split("Exit codes:\n").nth(1).unwrap().lines();
    let row = |line: &str| {
        let (code, meaning) = line.trim().split_once("  ").unwrap();
        (code.parse().unwrap(), meaning.to_owned())
    };
    let codes: BTreeMap<_, _> = table.map(row).collect();
    assert_eq!(codes[&0], "all done");
    codes
}

/// The codes whose meaning is such that …
fn codes_where(meaning: impl Fn(&str) -> bool) -> BTreeSet<i32> {
    let codes = exit_codes().into_iter().filter(|(_, text)| meaning(text));
    codes.map(|(code, _)| code).collect()
}

/// A world without ranks: the shell file `name` with programs that stand in for the ones it calls.
struct Farm {
    shop: Workshop,
    name: &'static str,
}

/// What the file called, and how it ended.
struct Seen {
    finished: Finished,
    /// Arguments of each program that was called.
    calls: BTreeMap<&'static str, Vec<String>>,
    /// Signals that the stand-in for mpirun or srun got.
    signals: Vec<String>,
}

const PROGRAMS: [&str; 3] = ["mpirun", "srun", "scontrol"];

/// Notes its arguments and signals. `ENDS` is the code it ends with, `HEEDS` the one after a signal
/// it waits for; with `ENDS_JOB` it sends SIGTERM to the one that called it.
const STAND_IN: &str = r#"#!/bin/bash
[ "${1:-}" != --version ] || { echo "$VERSION"; exit; }
for signal in TERM INT USR1 USR2; do
  trap "echo $signal >> '$0.signals'; [ $signal = TERM ] || exit ${HEEDS:-0}" "$signal"
done
printf '%s\n' "$@" > "$0.called"
[ -z "${ENDS_JOB:-}" ] || [ "${0##*/}" = scontrol ] || kill -TERM "$PPID"
[ -n "${HEEDS:-}" ] || exit "$ENDS"
for _ in {1..600}; do sleep 0.05; done
exit 99
"#;

impl Farm {
    fn new(name: &'static str) -> Self {
        let shop = Workshop::new();
        for program in PROGRAMS {
            let path = shop.write(&format!("bin/{program}"), STAND_IN);
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        Self { shop, name }
    }

    /// The command that runs the file, with what it wants to know.
    fn command(&self, set: &[(&str, &str)]) -> Command {
        let mut command = Command::new("/bin/bash");
        for (name, _) in std::env::vars() {
            if name.starts_with("STORYLOOM_") || name.starts_with("SLURM_") {
                command.env_remove(name);
            }
        }
        let path = std::env::var("PATH").unwrap();
        let bin = self.shop.path("bin").display().to_string();
        command
            .arg(folder().join(self.name))
            .args(["--set", "run.lease_timeout=9"])
            .stdin(Stdio::null())
            .env("PATH", format!("{bin}:{path}"))
            .env("CONFIG", self.shop.path("config.toml"))
            .env("MANIFEST", self.shop.path("a manifest.jsonl"))
            .env("OUT", self.shop.path("out"))
            .env("RANKS", "8")
            .env("VERSION", "mpirun (Open MPI) 4.1.4")
            .env("SLURM_JOB_ID", "44")
            .env("ENDS", "0")
            .envs(set.iter().copied());
        command
    }

    fn run(&self, set: &[(&str, &str)]) -> Seen {
        self.seen(finish(&mut self.command(set)))
    }

    /// Runs the file, and once the ranks are up sends a signal to its process group, as a terminal
    /// and many schedulers do. mpirun then ends with `code`.
    fn stop(&self, signal: &str, code: &str, set: &[(&str, &str)]) -> Seen {
        let mut command = self.command(set);
        let (stdout, stderr) = (Stdio::piped(), Stdio::piped());
        command.env("HEEDS", code).process_group(0);
        let mut child = command.stdout(stdout).stderr(stderr).spawn().unwrap();
        let begun = Instant::now();
        while !self.shop.path("bin/mpirun.called").exists() {
            assert!(child.try_wait().unwrap().is_none(), "it ended by itself");
            assert!(begun.elapsed() < TIMEOUT, "mpirun was never called");
            std::thread::sleep(Duration::from_millis(5));
        }
        let group = format!("-{}", child.id());
        let mut kill = Command::new("kill");
        let sent = kill.args(["-s", signal, "--", &group]).status();
        assert!(sent.unwrap().success());
        let output = child.wait_with_output().unwrap();
        self.seen(Finished {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    fn seen(&self, finished: Finished) -> Seen {
        let lines = |name: String| -> Option<Vec<String>> {
            let text = fs::read_to_string(self.shop.path("bin").join(name)).ok()?;
            Some(text.lines().map(str::to_owned).collect())
        };
        let called = |program| Some((program, lines(format!("{program}.called"))?));
        let signals = PROGRAMS.map(|program| lines(format!("{program}.signals")));
        Seen {
            finished,
            calls: PROGRAMS.into_iter().filter_map(called).collect(),
            signals: signals.into_iter().flatten().flatten().collect(),
        }
    }
}

impl Seen {
    /// Arguments of mpirun or srun, and after the word `storyloom` those of storyloom.
    fn world(&self) -> (&[String], &[String]) {
        let starters = ["mpirun", "srun"].map(|program| self.calls.get(program));
        let [call] = starters.into_iter().flatten().collect::<Vec<_>>()[..] else {
            panic!("not one world: {:?}", self.calls);
        };
        let split = call.iter().position(|word| word == "storyloom").unwrap();
        (&call[..split], &call[split + 1..])
    }
}

#[test]
fn shell_files_are_shell() {
    let shop = Workshop::new();
    let check = |text: &str| {
        let file = shop.write("file.sh", text);
        finish(Command::new("bash").args(["-n", &file])).code
    };
    for name in SHELL {
        let text = template(name);
        assert!(text.starts_with("#!/usr/bin/env bash\n"), "{name}");
        assert_eq!(check(&text), Some(0), "{name}");
        let cut = text.rsplit_once('"').unwrap().0;
        assert_ne!(check(cut), Some(0), "a quote of {name} is missing");
        let count = shell_lines(&text)
            .concat()
            .matches("storyloom run ")
            .count();
        assert_eq!(count, 1, "{name} runs storyloom once");
    }
    let last = shell_lines(&template("mpirun.sh")).pop().unwrap();
    assert!(last.contains(" mpirun ") && last.contains(" storyloom run "));
    let mode = fs::metadata(folder().join("mpirun.sh")).unwrap();
    assert_ne!(mode.permissions().mode() & 0o111, 0, "not executable");
}

/// One `#SBATCH` line as option and value, if sbatch knows it.
fn directive(line: &str) -> Result<(&str, &str), String> {
    let number = |text: &str| text.parse::<u16>().is_ok_and(|n| n > 0);
    let index = |text: &str| text.parse::<u16>().is_ok();
    let range = |text: &str| match text.split_once('-') {
        Some((from, to)) => {
            let (to, step) = to.split_once(':').unwrap_or((to, "1"));
            index(from) && index(to) && number(step)
        }
        None => index(text),
    };
    let array = |text: &str| {
        let (tasks, limit) = text.split_once('%').unwrap_or((text, "1"));
        tasks.split(',').all(range) && number(limit)
    };
    let size = |text: &str| index(text.trim_end_matches(['K', 'M', 'G', 'T']));
    let time = |text: &str| {
        let (days, clock) = text.split_once('-').unwrap_or(("0", text));
        let parts: Vec<_> = clock.split(':').collect();
        index(days) && parts.len() <= 3 && parts.into_iter().all(index)
    };
    let signal = |text: &str| {
        let text = text.strip_prefix("B:").unwrap_or(text);
        let (name, seconds) = text.split_once('@').unwrap_or((text, "60"));
        ["INT", "TERM", "USR1", "USR2"].contains(&name) && number(seconds)
    };
    let name = |text: &str| !text.is_empty() && !text.contains(char::is_whitespace);

    let option = line.strip_prefix("#SBATCH --").ok_or("no long option")?;
    let (option, value) = option.split_once('=').unwrap_or((option, ""));
    let fits = match option {
        "array" => array(value),
        "cpus-per-task" | "gpus-per-node" | "nodes" | "ntasks-per-node" => number(value),
        "job-name" | "output" => name(value),
        "mem" => size(value),
        "open-mode" => ["append", "truncate"].contains(&value),
        "requeue" => !line.contains('='),
        "signal" => signal(value),
        "time" => time(value),
        _ => return Err(format!("unknown option {option:?}")),
    };
    let wrong = || format!("--{option} does not take {value:?}");
    fits.then_some((option, value)).ok_or_else(wrong)
}

#[test]
fn sbatch_finds_its_options() {
    let text = template("slurm.sbatch");
    let first_command = text
        .lines()
        .position(|line| !line.is_empty() && !line.starts_with('#'));
    let mut options = BTreeMap::new();
    for (number, line) in text.lines().enumerate() {
        if line.contains("#SBATCH") && !line.starts_with("# ") {
            // sbatch reads no further than the first command.
            assert!(Some(number) < first_command, "{line} comes too late");
            let (option, value) = directive(line).unwrap_or_else(|error| panic!("{line}: {error}"));
            assert_eq!(options.insert(option, value), None, "{option} twice");
        }
    }
    assert!(options.contains_key("requeue"));
    assert!(options.contains_key("array"));
    assert_eq!(options["open-mode"], "append");
    assert_eq!(options["nodes"], "1", "a world is one node");
    assert_eq!(options["ntasks-per-node"], options["gpus-per-node"]);
    assert!(options["output"].contains("%A") && options["output"].contains("%a"));
    // The signal goes to the ranks, not to the script, and stops them.
    let (signal, _) = options["signal"].split_once('@').unwrap();
    let settings = call(&["config"]).ended_with(0).stdout;
    let stop = settings.split("stop_signals = \"").nth(1).unwrap();
    let mut stop = stop.split('"').next().unwrap().split(',');
    assert!(stop.any(|name| name == signal), "{signal}");

    for line in [
        "--arary=0-3",
        "--array",
        "--array=0-x",
        "--array=0-3%0",
        "--requeue=yes",
        "--signal=HUH@120",
        "--signal=USR1@soon",
        "--time=12h",
        "--mem=8Q",
        "--open-mode=add",
        "--nodes=one",
        "-n8",
    ] {
        directive(&format!("#SBATCH {line}")).expect_err(line);
    }
}

/// The parts of the Kubernetes API that the files use; nothing else may be in them.
mod schema {
    #![allow(
        dead_code,
        reason = "some fields are there only to be known to the parser"
    )]

    use std::collections::BTreeMap;

    use serde::Deserialize;

    /// A field with one of a few values.
    macro_rules! choice {
        ($name:ident: $($variant:ident = $text:literal),+) => {
            #[derive(Deserialize, Debug, PartialEq)]
            pub enum $name {
                $(#[serde(rename = $text)] $variant),+
            }
        };
    }

    /// An object with these fields and no others; those that are `Option` may be away.
    macro_rules! object {
        ($name:ident { $($field:ident: $type:ty),+ $(,)? }) => {
            #[derive(Deserialize, Debug)]
            #[serde(rename_all = "camelCase", deny_unknown_fields)]
            pub struct $name {
                $(pub $field: $type),+
            }
        };
    }

    choice!(BatchV1: It = "batch/v1");
    choice!(JobKind: It = "Job");
    choice!(Indexed: It = "Indexed");
    choice!(Failed: It = "Failed");
    choice!(Never: It = "Never");
    choice!(Memory: It = "Memory");
    choice!(Action: FailJob = "FailJob", FailIndex = "FailIndex", Ignore = "Ignore", Count = "Count");
    choice!(Operator: In = "In", NotIn = "NotIn");
    choice!(Condition: Disruption = "DisruptionTarget", Config = "ConfigIssue");
    choice!(Truth: True = "True", False = "False", Unknown = "Unknown");
    choice!(KubeflowV2: It = "kubeflow.org/v2beta1");
    choice!(MpiJobKind: It = "MPIJob");
    choice!(Mpi: Open = "OpenMPI", Intel = "Intel", Mpich = "MPICH");
    choice!(Creation: AtStartup = "AtStartup", Waits = "WaitForWorkersReady");
    choice!(Clean: None = "None", Running = "Running", All = "All");
    choice!(Restart: Never = "Never", OnFailure = "OnFailure");

    object!(Metadata { name: String, labels: BTreeMap<String, String> });
    object!(PodMetadata {
        labels: BTreeMap<String, String>,
        annotations: Option<BTreeMap<String, String>>,
    });

    object!(Job {
        api_version: BatchV1,
        kind: JobKind,
        metadata: Metadata,
        spec: JobSpec,
    });
    object!(JobSpec {
        completion_mode: Indexed,
        completions: u32,
        parallelism: u32,
        backoff_limit_per_index: u32,
        pod_replacement_policy: Failed,
        pod_failure_policy: FailurePolicy,
        template: Template,
    });
    object!(FailurePolicy { rules: Vec<Rule> });
    object!(Rule {
        action: Action,
        on_exit_codes: Option<OnExitCodes>,
        on_pod_conditions: Option<Vec<OnCondition>>,
    });
    object!(OnExitCodes {
        container_name: Option<String>,
        operator: Operator,
        values: Vec<i32>,
    });
    object!(OnCondition {
        r#type: Condition,
        status: Truth
    });

    object!(MpiJob {
        api_version: KubeflowV2,
        kind: MpiJobKind,
        metadata: Metadata,
        spec: MpiJobSpec,
    });
    object!(MpiJobSpec {
        mpi_implementation: Mpi,
        slots_per_worker: u32,
        ssh_auth_mount_path: String,
        launcher_creation_policy: Creation,
        run_policy: RunPolicy,
        mpi_replica_specs: Replicas,
    });
    object!(RunPolicy {
        clean_pod_policy: Clean,
        backoff_limit: u32
    });
    #[derive(Deserialize, Debug)]
    #[serde(rename_all = "PascalCase", deny_unknown_fields)]
    pub struct Replicas {
        pub launcher: Replica,
        pub worker: Replica,
    }
    object!(Replica {
        replicas: u32,
        restart_policy: Restart,
        template: Template,
    });

    object!(Template {
        metadata: PodMetadata,
        spec: Pod
    });
    object!(Pod {
        restart_policy: Option<Never>,
        enable_service_links: bool,
        security_context: Option<PodSecurity>,
        termination_grace_period_seconds: Option<u32>,
        containers: Vec<Container>,
        volumes: Vec<Volume>,
    });
    object!(Container {
        name: String,
        image: String,
        command: Vec<String>,
        args: Option<Vec<String>>,
        working_dir: Option<String>,
        env: Option<Vec<Variable>>,
        ports: Option<Vec<Port>>,
        security_context: SecurityContext,
        startup_probe: Option<Probe>,
        liveness_probe: Option<Probe>,
        readiness_probe: Option<Probe>,
        resources: Resources,
        volume_mounts: Vec<Mount>,
    });
    object!(Variable {
        name: String,
        value: Option<String>,
        value_from: Option<ValueFrom>,
    });
    object!(ValueFrom {
        field_ref: FieldRef
    });
    object!(FieldRef {
        field_path: FieldPath
    });
    choice!(FieldPath: PodIp = "status.podIP");
    object!(Port {
        name: String,
        container_port: u16
    });
    object!(PodSecurity {
        run_as_non_root: bool,
        run_as_user: u32,
        run_as_group: u32,
        fs_group: u32,
        fs_group_change_policy: FsGroupChange,
        seccomp_profile: Seccomp,
    });
    choice!(FsGroupChange: OnRootMismatch = "OnRootMismatch", Always = "Always");
    object!(Seccomp {
        r#type: SeccompType
    });
    choice!(SeccompType: RuntimeDefault = "RuntimeDefault");
    object!(SecurityContext {
        run_as_non_root: Option<bool>,
        run_as_user: Option<u32>,
        allow_privilege_escalation: bool,
        capabilities: Option<Capabilities>,
    });
    object!(Capabilities { drop: Vec<Capability> });
    choice!(Capability: All = "ALL");
    object!(Probe {
        tcp_socket: Option<Socket>,
        http_get: Option<HttpGet>,
        initial_delay_seconds: Option<u32>,
        period_seconds: Option<u32>,
        timeout_seconds: Option<u32>,
        failure_threshold: Option<u32>,
    });
    object!(Socket { port: u16 });
    object!(HttpGet {
        path: String,
        port: String
    });
    object!(Resources {
        limits: BTreeMap<String, Quantity>,
        requests: BTreeMap<String, Quantity>,
    });
    #[derive(Deserialize, Debug, Clone)]
    #[serde(untagged)]
    pub enum Quantity {
        Number(u64),
        Text(String),
    }
    object!(Mount {
        name: String,
        mount_path: String
    });
    object!(Volume {
        name: String,
        persistent_volume_claim: Option<Claim>,
        config_map: Option<ConfigMap>,
        empty_dir: Option<EmptyDir>,
    });
    object!(Claim { claim_name: String });
    object!(ConfigMap { name: String });
    object!(EmptyDir {
        medium: Memory,
        size_limit: Quantity
    });
}

use schema::{
    Action, Condition, Container, FieldPath, Job, MpiJob, Operator, Pod, Probe, Quantity, Truth,
};

fn yaml(name: &str) -> Value {
    serde_saphyr::from_str(&template(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// `Err` with the reason unless `rule` holds.
fn ensure(rule: bool, reason: impl FnOnce() -> String) -> Result<(), String> {
    rule.then_some(()).ok_or_else(reason)
}

/// A quantity in its unit, or bytes.
fn amount(quantity: &Quantity) -> Result<u64, String> {
    let text = match quantity {
        Quantity::Number(number) => return Ok(*number),
        Quantity::Text(text) => text,
    };
    let units = [("Ki", 10), ("Mi", 20), ("Gi", 30), ("Ti", 40)];
    let mut parts = units.iter().filter_map(|(unit, shift)| {
        let number: u64 = text.strip_suffix(unit)?.parse().ok()?;
        Some(number << shift)
    });
    parts
        .next()
        .ok_or_else(|| format!("{text:?} is no quantity"))
}

fn is_name(text: &str) -> bool {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    text.len() <= 63
        && text.chars().all(inner)
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && !text.ends_with('-')
}

/// GPUs of a container, asked for in the only way there is.
fn gpus(container: &Container) -> u64 {
    let limit = container.resources.limits.get("nvidia.com/gpu");
    limit.map_or(0, |gpus| amount(gpus).unwrap())
}

/// What the types of a pod cannot say. The pods here have one container.
fn check_pod(pod: &Pod) -> Result<&Container, String> {
    let [container] = &pod.containers[..] else {
        return Err("not one container".to_owned());
    };
    ensure(is_name(&container.name), || container.name.clone())?;
    ensure(container.image == "${STORYLOOM_IMAGE}", || {
        format!("{} is not the placeholder", container.image)
    })?;
    ensure(!pod.enable_service_links, || "service links".to_owned())?;
    check_user(pod, container)?;
    check_env(container)?;
    for probe in [
        &container.startup_probe,
        &container.liveness_probe,
        &container.readiness_probe,
    ] {
        check_probe(probe.as_ref(), container)?;
    }
    let mut volumes = BTreeMap::new();
    for volume in &pod.volumes {
        let sources = [
            volume.persistent_volume_claim.is_some(),
            volume.config_map.is_some(),
            volume.empty_dir.is_some(),
        ];
        let one = sources.iter().filter(|source| **source).count() == 1;
        let new = volumes.insert(&volume.name, volume).is_none();
        ensure(one && new && is_name(&volume.name), || volume.name.clone())?;
    }
    let limits = &container.resources.limits;
    let memory = limits.get("memory").ok_or("no limit of memory")?;
    for mount in &container.volume_mounts {
        let volume = volumes
            .remove(&mount.name)
            .ok_or_else(|| format!("no volume {} is left", mount.name))?;
        if let Some(empty) = &volume.empty_dir {
            ensure(mount.mount_path == "/dev/shm", || mount.mount_path.clone())?;
            let fits = amount(&empty.size_limit)? < amount(memory)?;
            ensure(fits, || "/dev/shm counts as memory".to_owned())?;
        }
        let rooted = mount.mount_path.starts_with('/');
        ensure(rooted, || mount.mount_path.clone())?;
    }
    ensure(volumes.is_empty(), || format!("unused: {volumes:?}"))?;
    for (what, requested) in &container.resources.requests {
        if let Some(limit) = limits.get(what) {
            let fits = amount(requested)? <= amount(limit)?;
            ensure(fits, || format!("more {what} than its limit"))?;
        }
    }
    let mounts_shm = |mount: &schema::Mount| mount.mount_path == "/dev/shm";
    let shm = container.volume_mounts.iter().any(mounts_shm);
    ensure(shm == (gpus(container) > 0), || {
        "ranks need /dev/shm".to_owned()
    })?;
    Ok(container)
}

/// Nothing here needs to be root.
fn check_user(pod: &Pod, container: &Container) -> Result<(), String> {
    let (all, own) = (pod.security_context.as_ref(), &container.security_context);
    let not_root = all.is_some_and(|all| all.run_as_non_root) || own.run_as_non_root == Some(true);
    let user = own.run_as_user.or(all.map(|all| all.run_as_user));
    ensure(not_root && user.is_some_and(|user| user > 0), || {
        "it may be root".to_owned()
    })?;
    ensure(!own.allow_privilege_escalation, || {
        "it may become root".to_owned()
    })
}

/// Variables have one source, and name only what stands before them.
fn check_env(container: &Container) -> Result<(), String> {
    let mut known = BTreeSet::new();
    for variable in container.env.iter().flatten() {
        let wrong = || variable.name.clone();
        let sources = (variable.value.as_ref(), variable.value_from.as_ref());
        let value = match sources {
            (Some(value), None) => value.as_str(),
            (None, Some(_)) => "",
            _ => return Err(wrong()),
        };
        let named = value.split("$(").skip(1);
        let named: Option<Vec<_>> = named.map(|rest| Some(rest.split_once(')')?.0)).collect();
        let named = named.ok_or_else(wrong)?;
        ensure(named.iter().all(|name| known.contains(name)), wrong)?;
        ensure(known.insert(variable.name.as_str()), wrong)?;
    }
    Ok(())
}

/// A probe asks in one way, at a port that the container has.
fn check_probe(probe: Option<&Probe>, container: &Container) -> Result<(), String> {
    match probe.map(|probe| (&probe.tcp_socket, &probe.http_get)) {
        None | Some((Some(_), None)) => Ok(()),
        Some((None, Some(get))) => {
            let mut ports = container.ports.iter().flatten();
            ensure(ports.any(|port| port.name == get.port), || get.port.clone())?;
            ensure(get.path.starts_with('/'), || get.path.clone())
        }
        Some(_) => Err("a probe asks in one way".to_owned()),
    }
}

fn check_job(value: &Value) -> Result<Job, String> {
    let job: Job = serde_json::from_value(value.clone()).map_err(|error| error.to_string())?;
    let container = check_pod(&job.spec.template.spec)?;
    ensure(is_name(&job.metadata.name), || job.metadata.name.clone())?;
    ensure(job.spec.parallelism <= job.spec.completions, || {
        "more worlds at once than in all".to_owned()
    })?;
    let pod = &job.spec.template.spec;
    // A Job with a failure policy takes no other.
    ensure(pod.restart_policy.is_some(), || "restartPolicy".to_owned())?;
    ensure(pod.termination_grace_period_seconds.is_some(), || {
        "30 s are few".to_owned()
    })?;
    let mut seen = BTreeSet::new();
    for rule in &job.spec.pod_failure_policy.rules {
        match (&rule.on_exit_codes, &rule.on_pod_conditions) {
            (Some(codes), None) => {
                let name = codes.container_name.as_ref();
                ensure(name.is_none_or(|name| *name == container.name), || {
                    format!("no container {name:?}")
                })?;
                ensure(codes.operator == Operator::In, || "not In".to_owned())?;
                let sorted = codes.values.is_sorted_by(|a, b| a < b);
                ensure(sorted && !codes.values.is_empty(), || {
                    format!("{:?} are not in order", codes.values)
                })?;
                for code in &codes.values {
                    ensure((1..=255).contains(code) && seen.insert(*code), || {
                        format!("{code} is none, or twice")
                    })?;
                }
            }
            (None, Some(conditions)) => {
                ensure(!conditions.is_empty(), || "no condition".to_owned())?;
            }
            _ => return Err("a rule is on exit codes or on conditions".to_owned()),
        }
    }
    Ok(job)
}

fn check_mpi_job(value: &Value) -> Result<MpiJob, String> {
    let job: MpiJob = serde_json::from_value(value.clone()).map_err(|error| error.to_string())?;
    ensure(is_name(&job.metadata.name), || job.metadata.name.clone())?;
    let replicas = &job.spec.mpi_replica_specs;
    let launcher = check_pod(&replicas.launcher.template.spec)?;
    let worker = check_pod(&replicas.worker.template.spec)?;
    ensure(replicas.launcher.replicas == 1, || {
        "one launcher".to_owned()
    })?;
    ensure(gpus(launcher) == 0, || {
        "the launcher makes nothing".to_owned()
    })?;
    ensure(worker.readiness_probe.is_some(), || {
        "nobody knows when a worker is ready".to_owned()
    })?;
    ensure(gpus(worker) == u64::from(job.spec.slots_per_worker), || {
        "one rank per GPU".to_owned()
    })?;
    Ok(job)
}

/// A copy of `file` in which the value at `place` is another, or away if that is null. `POD` and
/// `RULES` stand for where an Indexed Job has them.
fn altered(file: &Value, place: &str, other: Value) -> Value {
    let mut copy = file.clone();
    let place = place.replace("POD", "/spec/template/spec");
    let place = place.replace("RULES", "/spec/podFailurePolicy/rules");
    let (parent, key) = place.rsplit_once('/').unwrap();
    let parent = copy.pointer_mut(parent);
    match parent.unwrap_or_else(|| panic!("no {place}")) {
        Value::Object(fields) if other.is_null() => {
            fields.remove(key).unwrap();
        }
        Value::Object(fields) => {
            fields.insert(key.to_owned(), other);
        }
        Value::Array(list) => list[key.parse::<usize>().unwrap()] = other,
        _ => panic!("{place} cannot be altered"),
    }
    copy
}

#[test]
fn the_indexed_job_is_one() {
    let file = yaml(INDEXED_JOB);
    check_job(&file).unwrap();
    for (place, other) in [
        ("/apiVersion", json!("batch/v2")),
        ("/kind", json!("CronJob")),
        ("/spec/completions", json!("4")),
        ("/spec/completions", json!(2)),
        ("/spec/completionMode", json!("NonIndexed")),
        ("/spec/podFailurePolice", json!({})),
        ("/spec/podReplacementPolicy", json!("TerminatingOrFailed")),
        ("/spec/template", Value::Null),
        ("POD/restartPolicy", json!("OnFailure")),
        ("POD/restartPolicy", Value::Null),
        ("POD/terminationGracePeriodSeconds", Value::Null),
        ("POD/enableServiceLinks", json!(true)),
        ("POD/enableServiceLinks", Value::Null),
        ("POD/securityContext/runAsUser", json!(0)),
        ("POD/securityContext/runAsNonRoot", json!(false)),
        ("POD/securityContext/runAsUsr", json!(1000)),
        (
            "POD/containers/0/securityContext/allowPrivilegeEscalation",
            json!(true),
        ),
        ("POD/containers/0/env/0/value", json!("10.0.0.1")),
        ("POD/containers/0/env/0/name", json!("POD")),
        ("POD/containers/0/env/1/value", json!("$(POD_IP:9464")),
        ("POD/containers/0/ports/0/name", json!("web")),
        (
            "POD/containers/0/livenessProbe/httpGet/path",
            json!("healthz"),
        ),
        ("POD/containers/0/livenessProbe/httpGet", Value::Null),
        (
            "POD/containers/0/readinessProbe/tcpSocket",
            json!({"port": 9464}),
        ),
        ("POD/containers", json!([])),
        ("POD/containers/0/image", json!("storyloom:latest")),
        ("POD/containers/0/command/3", json!(8)),
        ("POD/volumes/0/name", json!("other")),
        ("POD/volumes/1/emptyDir/medium", json!("RAM")),
        ("POD/volumes/1/emptyDir/sizeLimit", json!("16GB")),
        ("POD/volumes/1/emptyDir/sizeLimit", json!("1Ti")),
        ("RULES/0/action", json!("Fail")),
        ("RULES/0/onExitCodes/operator", json!("NotIn")),
        ("RULES/0/onExitCodes/values", json!([65, 2, 78])),
        ("RULES/0/onExitCodes/values", json!([0, 2])),
        ("RULES/1/onExitCodes/values", json!([78])),
        ("RULES/1/onExitCodes/containerName", json!("main")),
        ("RULES/2/onPodConditions", Value::Null),
        ("RULES/2/onPodConditions/0/status", json!(true)),
    ] {
        let why = format!("{place} as {other}");
        check_job(&altered(&file, place, other)).expect_err(&why);
    }
}

#[test]
fn the_mpi_job_is_one() {
    let file = yaml(MPI_JOB);
    let job = check_mpi_job(&file).unwrap();
    let (spec, replicas) = (&job.spec, &job.spec.mpi_replica_specs);
    let launcher = &replicas.launcher.template.spec.containers[0];
    let ranks = spec.slots_per_worker * replicas.worker.replicas;
    let env = launcher.env.as_ref().unwrap();
    let given = env.iter().find(|variable| variable.name == "RANKS");
    assert_eq!(given.unwrap().value, Some(ranks.to_string()));

    let worker = &file["spec"]["mpiReplicaSpecs"]["Worker"];
    for (place, other) in [
        ("/apiVersion", json!("kubeflow.org/v1")),
        ("/spec/slotsPerWorker", json!(4)),
        ("/spec/slotsPerWorker", json!("8")),
        ("/spec/mpiImplementation", json!("openmpi")),
        ("/spec/cleanPodPolicy", json!("Running")),
        ("/spec/runPolicy/cleanPodPolicy", json!("running")),
        ("/spec/mpiReplicaSpecs/Launcher", Value::Null),
        ("/spec/mpiReplicaSpecs/Launcher/replicas", json!(2)),
        (
            "/spec/mpiReplicaSpecs/Launcher/template",
            worker["template"].clone(),
        ),
        ("/spec/mpiReplicaSpecs/Master", worker.clone()),
        (
            "/spec/mpiReplicaSpecs/Worker/template/spec/volumes/0",
            json!({"name": "shared"}),
        ),
    ] {
        let why = format!("{place} as {other}");
        check_mpi_job(&altered(&file, place, other)).expect_err(&why);
    }
}

/// Codes of the Indexed Job's rules with one action.
fn codes_with(action: &Action) -> BTreeSet<i32> {
    let job = check_job(&yaml(INDEXED_JOB)).unwrap();
    let rules = job.spec.pod_failure_policy.rules.into_iter();
    let codes = rules.filter(|rule| rule.action == *action);
    let codes = codes.filter_map(|rule| rule.on_exit_codes);
    codes.flat_map(|codes| codes.values).collect()
}

#[test]
fn the_failure_policy_knows_the_exit_codes() {
    let again = codes_where(|meaning| meaning.contains("run me again"));
    let hopeless = codes_where(|meaning| meaning.starts_with("wrong "));
    assert!(again.contains(&75) && hopeless.contains(&78), "--help");
    assert_eq!(codes_with(&Action::Ignore), again);
    assert_eq!(codes_with(&Action::FailJob), hopeless);

    let job = check_job(&yaml(INDEXED_JOB)).unwrap();
    let mut rules = job.spec.pod_failure_policy.rules.iter();
    let disrupted = rules.find_map(|rule| Some((&rule.action, rule.on_pod_conditions.as_ref()?)));
    let (action, conditions) = disrupted.unwrap();
    assert_eq!(*action, Action::Ignore);
    assert_eq!(conditions[0].r#type, Condition::Disruption);
    assert_eq!(conditions[0].status, Truth::True);
}

#[test]
fn the_readme_knows_the_exit_codes() {
    let text = template("README.md");
    let mut table = BTreeMap::new();
    for line in text.lines() {
        let cells: Vec<_> = line.trim_matches('|').split('|').collect();
        if let [code, _, slurm, job] = cells[..]
            && let Ok(code) = code.trim().trim_matches('*').parse::<i32>()
        {
            table.insert(code, (slurm.trim(), job.trim()));
        }
    }
    assert!(table.keys().eq(exit_codes().keys()), "{table:?}");
    for (code, (slurm, job)) in table {
        let again = codes_with(&Action::Ignore).contains(&code);
        assert_eq!(slurm == "requeued", again, "{code}");
        assert_eq!(job.ends_with("does not count"), again, "{code}");
        let fails = codes_with(&Action::FailJob).contains(&code);
        assert_eq!(job == "Job fails", fails, "{code}");
    }
}

/// Gives a command to the real binary. It may fail only for the config, which is not there: then
/// everything before that was understood.
#[track_caller]
fn is_understood(arguments: &[String]) {
    finish(&mut storyloom(arguments))
        .ended_with(78)
        .saying("config.toml");
    // The proof that it can fail.
    let wrong = [arguments, &["--no-such-option".to_owned()]].concat();
    finish(&mut storyloom(wrong)).ended_with(2);

    let run = arguments.iter().position(|word| word == "run").unwrap();
    for part in [&arguments[..run], &arguments[run..]] {
        let Some(command) = part.first() else {
            continue;
        };
        let help = call(&[command, "--help"]).ended_with(0).stdout;
        let options = part.iter().filter(|word| word.starts_with('-'));
        for option in options {
            let known = help
                .split([' ', ',', '\n', '='])
                .any(|word| word == *option);
            assert!(known, "{command} has no {option}:\n{help}");
        }
    }
    for wanted in ["--config", "--manifest", "--out"] {
        assert!(arguments.iter().any(|word| word == wanted), "no {wanted}");
    }
}

#[test]
fn the_commands_of_the_shell_files_are_understood() {
    for name in SHELL {
        let seen = Farm::new(name).run(&[]);
        let (_, command) = seen.world();
        is_understood(command);
        // Under Slurm a stopped run would wait by default, and nobody would ever see code 75.
        let place = command.iter().position(|word| word == "--on-preempt");
        assert_eq!(command[place.unwrap() + 1], "exit", "{name}");
        let mut words = command.iter();
        assert!(words.any(|word| word.ends_with("/a manifest.jsonl")));
        assert!(command.ends_with(&["--set".to_owned(), "run.lease_timeout=9".to_owned()]));
    }
}

#[test]
fn the_command_of_the_indexed_job_is_understood() {
    let job = check_job(&yaml(INDEXED_JOB)).unwrap();
    let container = &job.spec.template.spec.containers[0];
    let command = [&container.command[..], container.args.as_deref().unwrap()].concat();
    let (program, arguments) = command.split_first().unwrap();
    assert_eq!(program, "storyloom");
    assert!(!arguments.contains(program));
    let ranks = arguments.iter().position(|word| word == "-n").unwrap() + 1;
    assert_eq!(arguments[ranks], gpus(container).to_string());
    is_understood(arguments);
}

#[test]
fn the_launcher_of_the_mpi_job_runs_mpirun_sh() {
    let job = check_mpi_job(&yaml(MPI_JOB)).unwrap();
    let pod = &job.spec.mpi_replica_specs.launcher.template.spec;
    let launcher = &pod.containers[0];
    let [bash, file] = &launcher.command[..] else {
        panic!("{:?}", launcher.command);
    };
    assert_eq!(bash, "bash");
    let (mount, name) = file.rsplit_once('/').unwrap();
    let mut mounts = launcher.volume_mounts.iter();
    let volume = &mounts.find(|it| it.mount_path == mount).unwrap().name;
    let volume = pod.volumes.iter().find(|it| it.name == *volume).unwrap();
    let map = &volume.config_map.as_ref().unwrap().name;
    let made = format!("kubectl create configmap {map} --from-file=launch/{name}");
    assert!(template(MPI_JOB).contains(&made), "no {made}");
    assert_eq!(name, "mpirun.sh");

    let env = launcher.env.as_ref().unwrap().iter();
    let env = env.filter_map(|it| Some((&it.name[..], it.value.as_deref()?)));
    let env: Vec<_> = env.collect();
    let seen = Farm::new("mpirun.sh").run(&env);
    let (options, command) = seen.world();
    let has = |pair: [&str; 2]| options.windows(2).any(|two| two == pair);
    assert!(has(["-n", "16"]) && has(["-x", "STORYLOOM_METRICS_LISTEN"]));
    is_understood(command);
}

#[test]
fn mpirun_sh_passes_everything_on() {
    for (code, _) in exit_codes() {
        let seen = Farm::new("mpirun.sh").run(&[("ENDS", &code.to_string())]);
        assert_eq!(seen.finished.code, Some(code));
    }
    let set = [("HOSTFILE", "some hosts"), ("STORYLOOM_RUN_SEED", "7")];
    let has = |seen: &Seen, pair: [&str; 2]| seen.world().0.windows(2).any(|two| two == pair);
    let open = Farm::new("mpirun.sh").run(&set);
    assert!(has(&open, ["-machinefile", "some hosts"]) && has(&open, ["-n", "8"]));
    assert!(has(&open, ["-x", "STORYLOOM_RUN_SEED"]));
    let mpich = Farm::new("mpirun.sh").run(&[&set[..], &[("VERSION", "HYDRA")]].concat());
    assert!(has(&mpich, ["-machinefile", "some hosts"]));
    assert!(!mpich.world().0.contains(&"-x".to_owned()), "not of MPICH");
}

#[test]
fn mpirun_sh_turns_sigterm_into_sigusr1() {
    const MPICH: (&str, &str) = ("VERSION", "HYDRA build details:");
    const OPEN: (&str, &str) = ("VERSION", "mpirun (Open MPI) 5.0.8");
    let cases = [
        ("TERM", "75", OPEN, "USR1", 75),
        ("USR1", "75", OPEN, "USR1", 75),
        ("USR2", "75", OPEN, "USR2", 75),
        ("TERM", "75", MPICH, "USR1", 75),
        ("USR2", "75", MPICH, "USR1", 75),
        // mpirun of MPICH forgot the code, or a rank did not listen yet.
        ("TERM", "0", MPICH, "USR1", 75),
        ("TERM", "10", MPICH, "USR1", 75),
        ("TERM", "138", OPEN, "USR1", 75),
        // mpirun has got SIGTERM as well, and says what it says then.
        ("TERM", "1", OPEN, "USR1", 75),
        ("TERM", "143", OPEN, "USR1", 75),
        ("TERM", "15", MPICH, "USR1", 75),
        // What went wrong while stopping is not hidden.
        ("TERM", "74", OPEN, "USR1", 74),
    ];
    for (sent, ends, mpi, got, code) in cases {
        let case = format!("{sent} {ends} {mpi:?}");
        let seen = Farm::new("mpirun.sh").stop(sent, ends, &[mpi]);
        assert_eq!(seen.signals, [got], "{case}");
        assert_eq!(seen.finished.code, Some(code), "{case}");
    }
}

#[test]
fn shell_files_name_what_is_missing() {
    for (name, variables) in [
        ("mpirun.sh", &["CONFIG", "MANIFEST", "OUT", "RANKS"][..]),
        ("slurm.sbatch", &["CONFIG", "MANIFEST", "OUT"]),
    ] {
        for variable in variables {
            let seen = Farm::new(name).run(&[(variable, "")]);
            seen.finished.ended_with(2).saying(variable);
            assert!(seen.calls.is_empty(), "{name} went on without {variable}");
        }
    }
    let farm = Farm::new("mpirun.sh");
    let empty = farm.shop.path("empty");
    fs::create_dir(&empty).unwrap();
    let seen = farm.run(&[("PATH", empty.to_str().unwrap())]);
    seen.finished.ended_with(69).saying("mpirun");
}

#[test]
fn a_stopped_array_task_is_requeued_and_no_other() {
    let array = [("SLURM_ARRAY_JOB_ID", "41"), ("SLURM_ARRAY_TASK_ID", "3")];
    for (code, _) in exit_codes() {
        let code_text = code.to_string();
        let ends = ("ENDS", &code_text[..]);
        let seen = Farm::new("slurm.sbatch").run(&[&array[..], &[ends]].concat());
        assert_eq!(seen.finished.code, Some(code));
        let asked = seen.calls.get("scontrol").map(|words| words.join(" "));
        // By its number in the array: job 44 may stand for the whole array.
        let wanted = (code == 75).then(|| "requeue 41_3".to_owned());
        assert_eq!(asked, wanted, "{code}");
        let (options, _) = seen.world();
        assert!(options.contains(&"--mpi=pmix".to_owned()));
    }
    let alone = Farm::new("slurm.sbatch").run(&[("ENDS", "75")]);
    assert_eq!(alone.calls["scontrol"], ["requeue", "44"]);
    // A rank, or srun, was ended by SIGTERM.
    let ended = Farm::new("slurm.sbatch").run(&[("ENDS", "143")]);
    assert_eq!(ended.calls["scontrol"], ["requeue", "44"]);
    ended
        .finished
        .ended_with(75)
        .saying("an early stop like 75");
    // Slurm ends the job and tells the script so.
    let cancelled = Farm::new("slurm.sbatch").run(&[("ENDS", "75"), ("ENDS_JOB", "1")]);
    assert_eq!(cancelled.finished.code, Some(75));
    assert!(!cancelled.calls.contains_key("scontrol"));
}

/// Ranks that never find each other end with 75 as well: that must not go on for ever.
#[test]
fn a_task_that_makes_nothing_again_and_again_is_given_up() {
    let turn = |restarts: &str, age: Option<u64>| {
        let farm = Farm::new("slurm.sbatch");
        if let Some(age) = age {
            let record = farm.shop.write("out/stories/a/commits/01_01.json", "{}");
            let then = std::time::SystemTime::now() - Duration::from_secs(age);
            let record = fs::File::options().write(true).open(record).unwrap();
            record.set_modified(then).unwrap();
        }
        farm.run(&[("ENDS", "75"), ("SLURM_RESTART_COUNT", restarts)])
    };
    let given_up = turn("5", None);
    assert_eq!(given_up.finished.code, Some(75));
    assert!(!given_up.calls.contains_key("scontrol"));
    given_up.finished.saying("44 was started 6 times");
    assert!(!turn("9", Some(86_400)).calls.contains_key("scontrol"));
    for (restarts, age) in [("4", None), ("5", Some(0)), ("99", Some(0))] {
        let seen = turn(restarts, age);
        assert_eq!(seen.calls["scontrol"], ["requeue", "44"], "{restarts}");
    }
}

/// What mpirun tells of a killed rank is no code of the run.
#[test]
fn a_world_with_a_killed_rank_can_go_on() {
    for code in ["137", "9"] {
        let seen = Farm::new("mpirun.sh").run(&[("ENDS", code)]);
        seen.finished
            .ended_with(75)
            .saying("run the same command again");
    }
    // Somebody has ended mpirun.
    let seen = Farm::new("mpirun.sh").run(&[("ENDS", "143")]);
    seen.finished.ended_with(75).saying("ended by SIGTERM");
    // Or has it? Some shots may have failed.
    let seen = Farm::new("mpirun.sh").run(&[("ENDS", "1")]);
    seen.finished
        .ended_with(1)
        .saying("or mpirun itself got SIGTERM");
    // A rank that crashed would crash again.
    let crashed = Farm::new("mpirun.sh").run(&[("ENDS", "139")]);
    assert_eq!(crashed.finished.code, Some(139));
}

#[test]
fn mpirun_sh_starts_no_ranks_without_mpi() {
    for (says, code) in [("built in", 0), ("not built in", 78)] {
        let farm = Farm::new("mpirun.sh");
        let program = format!("#!/bin/bash\nprintf 'storyloom 1\\nMPI: {says}\\n'\n");
        let path = farm.shop.write("bin/storyloom", program);
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
        let seen = farm.run(&[]);
        assert_eq!(seen.finished.code, Some(code), "{}", seen.finished.stderr);
        assert_eq!(seen.calls.contains_key("mpirun"), code == 0);
    }
    let version = call(&["--version"]).ended_with(0).stdout;
    let wanted = match cfg!(feature = "mpi") {
        true => "\nMPI: built in\n",
        false => "\nMPI: not built in\n",
    };
    assert!(version.ends_with(wanted), "{version}");
}

/// Prometheus and the probes reach the leaders at the address of their pod.
#[test]
fn pods_serve_metrics_at_their_own_address() {
    let job = check_job(&yaml(INDEXED_JOB)).unwrap();
    let container = &job.spec.template.spec.containers[0];
    let env: Vec<_> = container.env.iter().flatten().collect();
    let ip = env.iter().find(|it| it.name == "POD_IP").unwrap();
    let source = &ip.value_from.as_ref().unwrap().field_ref.field_path;
    assert_eq!(*source, FieldPath::PodIp);
    let listen = env.iter().find(|it| it.name == "STORYLOOM_METRICS_LISTEN");
    let listen = listen.unwrap().value.as_deref().unwrap();
    let port = container.ports.as_ref().unwrap()[0].container_port;
    assert_eq!(listen, format!("$(POD_IP):{port}"));
    let annotations = job.spec.template.metadata.annotations.as_ref().unwrap();
    assert_eq!(annotations["prometheus.io/port"], port.to_string());
    // The setting of that name takes it.
    let mut config = storyloom(["config"]);
    config.env(
        "STORYLOOM_METRICS_LISTEN",
        listen.replace("$(POD_IP)", "10.1.2.3"),
    );
    let shown = finish(&mut config).ended_with(0).stdout;
    assert!(shown.contains("listen = \"10.1.2.3:9464\""), "{shown}");

    let path = |probe: &Option<Probe>| {
        let get = probe.as_ref().unwrap().http_get.as_ref();
        get.unwrap().path.clone()
    };
    assert_eq!(path(&container.startup_probe), "/healthz");
    assert_eq!(path(&container.liveness_probe), "/healthz");
    assert_eq!(path(&container.readiness_probe), "/readyz");
}

/// The image has the versions that the rest of the project names, and the user of the pods.
#[test]
fn the_dockerfile_fits_the_checkout() {
    let text = template("Dockerfile");
    let lines = shell_lines(&text);
    let root = folder().join("..");
    let read = |name: &str| fs::read_to_string(root.join(name)).unwrap();
    for line in &lines {
        let instruction = line.split(' ').next().unwrap();
        let known = [
            "ARG",
            "FROM",
            "RUN",
            "COPY",
            "ENV",
            "WORKDIR",
            "USER",
            "ENTRYPOINT",
        ];
        assert!(known.contains(&instruction), "{line}");
    }
    let stages: Vec<&str> = lines
        .iter()
        .filter_map(|line| line.strip_prefix("FROM "))
        .collect();
    let [torch, build, last] = stages[..] else {
        panic!("{stages:?}");
    };
    assert!(torch.ends_with(" AS torch") && build.ends_with(" AS build"));
    assert_eq!(last, "$BASE");
    let copied = lines.iter().filter_map(|line| line.split_once("--from="));
    for (_, from) in copied {
        let stage = from.split(' ').next().unwrap();
        assert!(["torch", "build"].contains(&stage), "{from}");
    }
    let setup = read("scripts/setup.sh");
    let wheels = setup.split("LIBTORCH_WHEELS=(").nth(1).unwrap();
    let wheel = wheels.split(' ').next().unwrap();
    assert!(lines.iter().any(|line| line.ends_with(wheel)), "{wheel}");
    let cargo = read("Cargo.toml");
    let rust = cargo.split("rust-version = \"").nth(1).unwrap();
    let rust = rust.split('"').next().unwrap();
    assert!(build.starts_with(&format!("rust:{rust}-")), "{build}");
    let job = check_job(&yaml(INDEXED_JOB)).unwrap();
    let user = job.spec.template.spec.security_context.unwrap();
    let wanted = format!("USER {}:{}", user.run_as_user, user.run_as_group);
    assert!(lines.contains(&wanted), "{wanted}");
}
