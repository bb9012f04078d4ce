//! What is read of a run folder, by an operator or by any program: nothing here makes a shot.

pub mod chosen;
pub mod memory;
pub mod report;
pub mod rescore;
pub mod status;
pub mod verify;
pub mod watch;
