//! Asking a run to stop.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR1};
use signal_hook::flag;

use crate::exit::{Exit, Failure};

/// A flag that the first SIGTERM, SIGINT or SIGUSR1 sets. The second one ends the program at
/// once; what is committed stays.
///
/// # Errors
/// The system refused a signal handler.
pub fn stop_flag() -> Result<Arc<AtomicBool>, Failure> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGTERM, SIGINT, SIGUSR1] {
        // In this order: the second handler arms the first for the next signal.
        flag::register_conditional_shutdown(signal, Exit::Stopped as i32, Arc::clone(&stop))
            .and_then(|_| flag::register(signal, Arc::clone(&stop)))
            .map_err(|error| Failure::new(Exit::Unexpected, error))?;
    }
    Ok(stop)
}
