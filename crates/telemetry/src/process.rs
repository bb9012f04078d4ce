//! A process that can be told from every other, also after its number was given to another.

use std::sync::OnceLock;

use serde::{Deserialize, Serialize};

/// A process of a machine.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Tells one start of a machine from the next; empty if unknown.
    pub boot: String,
    /// The space in which `pid` counts; empty if unknown.
    pub pid_space: String,
    /// Its number.
    pub pid: u32,
    /// When it began, in ticks since the machine's start.
    pub started: u64,
}

impl Process {
    /// This one.
    pub fn own() -> &'static Self {
        static OWN: OnceLock<Process> = OnceLock::new();
        OWN.get_or_init(|| {
            let pid = std::process::id();
            let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
            let pid_space = std::fs::read_link("/proc/self/ns/pid");
            Self {
                boot: boot.unwrap_or_default().trim().to_owned(),
                pid_space: pid_space
                    .map(|target| target.to_string_lossy().into_owned())
                    .unwrap_or_default(),
                pid,
                started: start_of(pid).unwrap_or_default(),
            }
        })
    }

    /// Whether it is known that it has ended.
    pub fn is_gone(&self) -> bool {
        self.lives() == Some(false)
    }

    /// Whether it lives; `None` if it is of another machine, or where the system does not tell.
    pub fn lives(&self) -> Option<bool> {
        let own = Self::own();
        let shared = !own.boot.is_empty()
            && !own.pid_space.is_empty()
            && (&own.boot, &own.pid_space) == (&self.boot, &self.pid_space);
        shared.then(|| start_of(self.pid) == Some(self.started))
    }
}

/// Name of this machine; empty if the system does not tell.
pub fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname");
    name.unwrap_or_default().trim().to_owned()
}

/// When a process began, in ticks since the machine's start; `None` if there is none, or if it has
/// ended and nobody has asked for its end yet.
fn start_of(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything; the fields after it are plain.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ended = matches!(fields.first(), Some(&("Z" | "X")));
    (!ended).then(|| fields.get(19)?.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_has_ended_is_known_to_be_dead() {
        let own = Process::own();
        assert_eq!((own.pid, own.lives()), (std::process::id(), Some(true)));
        // The same number, given to a later process.
        let earlier = Process {
            started: own.started + 1,
            ..own.clone()
        };
        assert_eq!(earlier.lives(), Some(false));
        let mut child = std::process::Command::new("sleep")
            .arg("100")
            .spawn()
            .unwrap();
        let process = Process {
            pid: child.id(),
            started: start_of(child.id()).unwrap(),
            ..own.clone()
        };
        assert_eq!(process.lives(), Some(true));
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(process.lives(), Some(false));
    }

    #[test]
    fn nobody_knows_of_processes_elsewhere() {
        let own = Process::own();
        for (boot, pid_space) in [
            ("", ""),
            ("elsewhere", &own.pid_space),
            (&own.boot, "pid:[1]"),
        ] {
            let other = Process {
                boot: boot.to_owned(),
                pid_space: pid_space.to_owned(),
                ..own.clone()
            };
            assert_eq!(other.lives(), None);
        }
    }
}
