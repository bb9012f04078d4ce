//! Calls of libraries that panic at input which they should refuse.

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

thread_local! {
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// Whether a panic of the calling thread becomes an error. It is no reason to end anything.
pub fn is_guarded() -> bool {
    GUARDED.get()
}

/// From now on, a panic that becomes an error is not printed as well: the caller that gets the error reports it.
pub fn print_only_unguarded_panics() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if !is_guarded() {
            usual(info);
        }
    }));
}

/// What `call` returns, or why it panicked. Nothing that it has changed may be used after that.
///
/// # Errors
/// It panicked.
pub fn guarded<T>(call: impl FnOnce() -> T) -> Result<T, String> {
    let before = GUARDED.replace(true);
    let called = catch_unwind(AssertUnwindSafe(call));
    GUARDED.set(before);
    called.map_err(|panic| message(&*panic))
}

fn message(panic: &(dyn Any + Send)) -> String {
    let fixed = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let message = fixed.or_else(|| panic.downcast_ref::<String>().cloned());
    message.unwrap_or_else(|| "the library that reads it panicked".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_an_error() {
        assert_eq!(guarded(|| 5), Ok(5));
        let nested = guarded(|| (guarded(|| panic!("at {}", 3)), is_guarded()));
        let wanted: (Result<(), String>, bool) = (Err("at 3".to_owned()), true);
        assert_eq!(nested, Ok(wanted));
        assert!(!is_guarded());
        assert_eq!(guarded(|| panic!("here")), Err::<(), _>("here".to_owned()));
    }
}
