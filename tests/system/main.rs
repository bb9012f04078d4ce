//! The program as its users see it: every test starts the real binary and looks at exit codes,
//! stdout, stderr and the files it leaves.
#![allow(clippy::unwrap_used, reason = "tests stop at the first surprise")]

mod bad_inputs;
mod briefs;
mod browser;
mod damage;
mod durable;
mod feeds;
mod films;
mod first_hour;
mod first_shot;
mod harness;
mod input;
mod launch;
mod loading;
mod machine;
mod meeting;
mod methods;
mod monitoring;
mod onestory;
mod onestory_torch;
mod operating;
mod pins;
mod plan;
mod planning;
mod records;
mod repair;
mod report;
mod run;
mod scripts;
mod served;
mod settings;
mod tiny;
mod torch;
mod watch;
mod world;
