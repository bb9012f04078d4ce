//! Signals that come before `main`.
//!
//! The loader of the system runs the constructors of libtorch before `main`, which takes some tenths of a
//! second. A signal to stop would kill the program there, and anyone who started it would see a crash where
//! nothing had been begun. So handlers are set before these constructors: all they do is to end the program
//! with the code that says "run me again". What is left is the time in which the loader maps the libraries.

use std::ffi::{CStr, c_char, c_int};
use std::mem::MaybeUninit;
use std::ptr::{null, null_mut};

use super::HEARD;
use crate::exit::Exit;

/// Commands that say 75 when they are asked to stop.
const COMMANDS: [&CStr; 3] = [c"run", c"plan", c"launch"];

/// The signals that some setting makes requests to stop by default.
pub const SIGNALS: [c_int; 4] = [libc::SIGTERM, libc::SIGINT, libc::SIGUSR1, libc::SIGUSR2];

/// Called by the loader before any constructor of a library.
#[used]
#[unsafe(link_section = ".preinit_array")]
static BEFORE_ALL: extern "C" fn(c_int, *const *const c_char, *const *const c_char) = listen;

extern "C" fn listen(count: c_int, arguments: *const *const c_char, _: *const *const c_char) {
    if count < 2 || arguments.is_null() {
        return;
    }
    // SAFETY: the loader hands over `count` arguments, each a text that ends with a zero, which live as long
    // as the program; nobody has changed them yet.
    let command = unsafe { CStr::from_ptr(*arguments.add(1)) };
    if !COMMANDS.contains(&command) {
        return;
    }
    for signal in SIGNALS {
        if handler(signal) == Some(libc::SIG_DFL) {
            set(signal, leave as extern "C" fn(c_int) as libc::sighandler_t);
        }
    }
}

/// Nothing has begun: there is nothing to save.
extern "C" fn leave(_: c_int) {
    if !HEARD.is_there_work() {
        // SAFETY: `_exit` is allowed in a signal handler, and runs nothing of this program.
        unsafe { libc::_exit(Exit::Stopped as c_int) };
    }
}

/// Gives those signals back that the settings do not name.
pub fn forget_others(named: &[i32]) {
    for signal in SIGNALS {
        let ours = leave as extern "C" fn(c_int) as libc::sighandler_t;
        if !named.contains(&signal) && handler(signal) == Some(ours) {
            set(signal, libc::SIG_DFL);
        }
    }
}

/// What follows a signal now.
fn handler(signal: c_int) -> Option<libc::sighandler_t> {
    let mut action = MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: the null pointer asks for no change, and the place is as large as the answer.
    match unsafe { libc::sigaction(signal, null(), action.as_mut_ptr()) } {
        // SAFETY: the call has succeeded and filled it.
        0 => Some(unsafe { action.assume_init() }.sa_sigaction),
        _ => None,
    }
}

fn set(signal: c_int, handler: libc::sighandler_t) {
    // SAFETY: all zeros are a valid action: no flags, an empty mask, the default.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handler;
    action.sa_flags = libc::SA_RESTART;
    // SAFETY: the action is complete, and its handler only reads an atomic number and ends the program.
    unsafe { libc::sigaction(signal, &raw const action, null_mut()) };
}
