//! Whether forwards are to be differentiated.
//!
//! Networks are made for sampling: they forbid gradients, work in place, and have loops and kernels
//! of their own that libtorch's automatic differentiation does not see. Training runs the very same
//! networks inside [`with_gradients`], where layers keep to compositions of libtorch's operations.

use tch::{NoGradGuard, Tensor};

use crate::error::Result;
use crate::flag::{Flag, with_flag};

thread_local! {
    static WANTED: Flag = const { Flag::new(false) };
}

/// Does `work` on this thread such that what networks compute can be differentiated.
///
/// Networks must have been loaded inside as well: some prepare their weights when they are loaded.
pub fn with_gradients<T>(work: impl FnOnce() -> T) -> T {
    with_flag(&WANTED, true, work)
}

/// Whether this thread is inside [`with_gradients`].
pub fn are_wanted() -> bool {
    WANTED.get()
}

/// Forbids gradients as long as it lives, unless they are wanted.
pub fn guard() -> Option<NoGradGuard> {
    (!are_wanted()).then(tch::no_grad_guard)
}

/// `hidden + value`, in place where no gradient needs the old values; nothing else may use `hidden`.
pub fn add(mut hidden: Tensor, value: &Tensor) -> Result<Tensor> {
    Ok(match are_wanted() {
        true => hidden.f_add(value)?,
        false => hidden.f_add_(value)?,
    })
}
