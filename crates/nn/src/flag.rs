//! Switches of a thread that hold while some work is done.

use std::cell::Cell;
use std::thread::LocalKey;

/// What a thread is to do or not.
pub(crate) type Flag = Cell<bool>;

/// Does `work` with the flag of this thread at `value`; after it, also after a panic, the flag is
/// as before.
pub(crate) fn with_flag<T>(
    flag: &'static LocalKey<Flag>,
    value: bool,
    work: impl FnOnce() -> T,
) -> T {
    struct Before(&'static LocalKey<Flag>, bool);
    impl Drop for Before {
        fn drop(&mut self) {
            self.0.set(self.1);
        }
    }
    let _before = Before(flag, flag.replace(value));
    work()
}
