//! The back ends of attention one by one, through a few lines of C++.
//!
//! libtorch chooses among them by rules of its own; the bindings offer that choice only.

use std::ffi::{CStr, c_char, c_int, c_void};

use serde::Serialize;
use tch::Tensor;

use crate::error::{ModelError, Result};

/// Who computes an attention.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[repr(i32)]
pub enum BackEnd {
    /// Whom libtorch chooses.
    Default = 0,
    /// Flash attention, as built into libtorch.
    Flash = 1,
    /// cuDNN.
    Cudnn = 2,
    /// The memory-efficient kernels.
    Efficient = 3,
}

impl BackEnd {
    /// All of them, the default first.
    pub const ALL: [Self; 4] = [Self::Default, Self::Flash, Self::Cudnn, Self::Efficient];

    /// The name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::Flash => "flash",
            Self::Cudnn => "cudnn",
            Self::Efficient => "efficient",
        }
    }

    /// As [`attend`](super::attend) without a mask.
    ///
    /// # Errors
    /// The back end does not take these tensors, or does not know their device.
    pub fn attend(
        self,
        query: &Tensor,
        key: &Tensor,
        value: &Tensor,
        scale: Option<f64>,
    ) -> Result<Tensor> {
        let mut message: [c_char; 512] = [0; 512];
        // SAFETY: the three are tensors that live until the call is over, and are only read. The
        // callee writes at most `message.len()` bytes, and catches every exception.
        let found = unsafe {
            storyloom_attend(
                self as c_int,
                query.as_ptr().cast(),
                key.as_ptr().cast(),
                value.as_ptr().cast(),
                scale.unwrap_or(f64::NAN),
                message.as_mut_ptr(),
                message.len(),
            )
        };
        if found.is_null() {
            // SAFETY: the callee has written a text that ends with a zero.
            let text = unsafe { CStr::from_ptr(message.as_ptr()) }.to_string_lossy();
            let reason = text.lines().next().unwrap_or_default();
            return Err(ModelError::input(
                format!("attention by {}", self.name()),
                reason,
            ));
        }
        // SAFETY: a new C++ tensor, which nobody else owns.
        Ok(unsafe { Tensor::from_ptr(found.cast()) })
    }
}

unsafe extern "C" {
    fn storyloom_attend(
        back_end: c_int,
        query: *const c_void,
        key: *const c_void,
        value: *const c_void,
        scale: f64,
        message: *mut c_char,
        room: usize,
    ) -> *mut c_void;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::cosines;

    fn inputs() -> [Tensor; 3] {
        [0.1, 0.5, 0.9].map(|phase| cosines(&[1, 2, 6, 8], phase))
    }

    #[test]
    fn the_default_is_that_of_the_bindings() {
        let [query, key, value] = inputs();
        for scale in [None, Some(0.3)] {
            let found = BackEnd::Default.attend(&query, &key, &value, scale);
            let expected = super::super::attend(&query, &key, &value, None, scale);
            assert_eq!(found.unwrap(), expected.unwrap());
        }
    }

    #[test]
    fn what_a_back_end_does_not_take_is_an_error() {
        let [query, key, value] = inputs();
        // On the CPU none of them is there; the text is libtorch's.
        for back_end in &BackEnd::ALL[1..] {
            let error = back_end.attend(&query, &key, &value, None).unwrap_err();
            let error = error.to_string();
            assert!(error.contains(back_end.name()), "{error}");
            assert!(error.contains("CPU"), "{error}");
        }
        let narrow = key.narrow(3, 0, 4);
        let error = BackEnd::Default.attend(&query, &narrow, &value, None);
        assert!(error.is_err());
    }
}
