//! How the threads of the arithmetic wait for each other.

use std::env;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// What the OpenMP library reads, once, when it is loaded.
const POLICY: &str = "OMP_WAIT_POLICY";
/// Whoever sets one of these has decided.
const DECIDED: [&str; 3] = [POLICY, "GOMP_SPINCOUNT", "KMP_BLOCKTIME"];

/// Makes idle threads sleep instead of spin, unless the environment says otherwise.
///
/// By default they spin at every barrier. On a machine with other work on it the thread that is
/// waited for is then often not running: a shot of the tiny checkpoint took ten times as long
/// beside other jobs. The library was loaded with this program, so the program starts itself
/// again, as the same process; where that fails it goes on as it is.
pub fn wait_asleep() {
    if DECIDED.iter().any(|name| env::var_os(name).is_some()) {
        return;
    }
    if let Ok(program) = env::current_exe() {
        let error = Command::new(program)
            .args(env::args_os().skip(1))
            .env(POLICY, "PASSIVE")
            .exec();
        tracing::debug!("threads will spin while they wait: {error}");
    }
}
