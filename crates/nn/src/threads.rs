//! How many threads libtorch computes with. It keeps that number for each thread of the program.

/// Does `work` on this thread alone: no sum is divided, so that its bits do not depend on how many threads
/// there are. For work that is small.
pub fn on_one_thread<T>(work: impl FnOnce() -> T) -> T {
    let _restored = Restored(tch::get_num_threads());
    tch::set_num_threads(1);
    work()
}

/// Sets the number of threads again when it goes.
struct Restored(i32);

impl Drop for Restored {
    fn drop(&mut self) {
        tch::set_num_threads(self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_threads_is_as_it_was() {
        let before = tch::get_num_threads();
        assert_eq!(on_one_thread(tch::get_num_threads), 1);
        assert_eq!(tch::get_num_threads(), before);
    }
}
