//! What is read of a run folder, by an operator or by any program: nothing here makes a shot.

pub mod memory;
pub mod report;
pub mod status;
pub mod verify;
pub mod watch;
