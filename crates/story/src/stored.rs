//! Arrays that are read when somebody asks for them.
//!
//! What a story remembers grows with every shot, and what a shot needs of it at once does not. So a shot is
//! given [`StoredArray`]s: they know their shapes, and read their values for the network that is about to use them.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use crate::host::HostTensor;
use crate::stage::ErrorClass;

/// Where the values of an array come from.
pub trait ArraySource: fmt::Debug + Send + Sync {
    /// Reads the array, and checks that it is the one that was stored. Nothing else keeps it: it is gone
    /// with the last reader.
    ///
    /// # Errors
    /// It is gone or has changed, or the storage refuses.
    fn read(&self) -> Result<Arc<HostTensor>, UnreadableArray>;
}

/// An array cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct UnreadableArray {
    /// What that means for the shot.
    pub class: ErrorClass,
    /// Which file, and what is wrong with it.
    pub message: String,
}

/// An array of known shape, whose values are read when somebody asks for them.
#[derive(Debug, Clone)]
pub struct StoredArray {
    shape: Vec<usize>,
    source: Arc<dyn ArraySource>,
}

impl StoredArray {
    /// An array of `source`, which has this shape.
    pub fn new(shape: Vec<usize>, source: impl ArraySource + 'static) -> Self {
        Self {
            shape,
            source: Arc::new(source),
        }
    }

    /// Axis lengths, slowest first. Reads nothing.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Reads it. Who goes through a history lets one array go before the next is read.
    ///
    /// # Errors
    /// It is gone, has changed or has another shape than it had, or the storage refuses.
    pub fn read(&self) -> Result<Arc<HostTensor>, UnreadableArray> {
        let array = self.source.read()?;
        if array.shape() == self.shape {
            return Ok(array);
        }
        Err(UnreadableArray {
            class: ErrorClass::Shot,
            message: format!(
                "an array of shape {:?} was stored, and one of {:?} is read",
                self.shape,
                array.shape()
            ),
        })
    }
}

/// An array that is in memory already, as on ranks to which it was sent.
impl From<HostTensor> for StoredArray {
    fn from(array: HostTensor) -> Self {
        Self::new(array.shape().to_vec(), Held(Arc::new(array)))
    }
}

#[derive(Debug)]
struct Held(Arc<HostTensor>);

impl ArraySource for Held {
    fn read(&self) -> Result<Arc<HostTensor>, UnreadableArray> {
        Ok(Arc::clone(&self.0))
    }
}

/// Counts how many of its arrays live at the same time. For tests of everything that goes through a history.
#[derive(Debug, Clone, Default)]
pub struct ReadCount(Arc<Mutex<Counted>>);

#[derive(Debug, Default)]
struct Counted {
    alive: Vec<Weak<HostTensor>>,
    reads: usize,
    most: usize,
}

impl ReadCount {
    /// An array that is made anew for each reader, and counted.
    pub fn array(&self, array: HostTensor) -> StoredArray {
        let source = CountedArray {
            array: array.clone(),
            count: self.clone(),
        };
        StoredArray::new(array.shape().to_vec(), source)
    }

    /// How often one was read.
    pub fn reads(&self) -> usize {
        self.look(|counted| counted.reads)
    }

    /// The most that lived at the same time.
    pub fn most_at_once(&self) -> usize {
        self.look(|counted| counted.most)
    }

    fn look<T>(&self, look: impl FnOnce(&mut Counted) -> T) -> T {
        look(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[derive(Debug)]
struct CountedArray {
    array: HostTensor,
    count: ReadCount,
}

impl ArraySource for CountedArray {
    fn read(&self) -> Result<Arc<HostTensor>, UnreadableArray> {
        let array = Arc::new(self.array.clone());
        self.count.look(|counted| {
            counted.alive.retain(|other| other.strong_count() > 0);
            counted.alive.push(Arc::downgrade(&array));
            counted.reads += 1;
            counted.most = counted.most.max(counted.alive.len());
        });
        Ok(array)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn array(values: &[f32]) -> HostTensor {
        HostTensor::new(vec![values.len()], values.to_vec()).unwrap()
    }

    #[test]
    fn what_is_in_memory_is_not_copied() {
        let stored = StoredArray::from(array(&[1.0, 2.0]));
        assert_eq!(stored.shape(), [2]);
        let (one, other) = (stored.read().unwrap(), stored.clone().read().unwrap());
        assert!(Arc::ptr_eq(&one, &other));
        assert_eq!(one.data(), [1.0, 2.0]);
    }

    #[test]
    fn an_array_that_has_another_shape_by_now_is_refused() {
        let source = Held(Arc::new(array(&[1.0, 2.0])));
        let error = StoredArray::new(vec![3], source).read().unwrap_err();
        assert_eq!(error.class, ErrorClass::Shot);
        assert!(error.message.contains("[3]"), "{error}");
    }

    #[test]
    fn arrays_that_live_together_are_counted() {
        let count = ReadCount::default();
        let history: Vec<StoredArray> = (0..4)
            .map(|value| count.array(array(&[value as f32])))
            .collect();
        assert_eq!((count.reads(), count.most_at_once()), (0, 0));
        let one_by_one = history
            .iter()
            .map(|stored| stored.read().unwrap().data()[0]);
        assert_eq!(one_by_one.sum::<f32>(), 6.0);
        assert_eq!((count.reads(), count.most_at_once()), (4, 1));
        let together: Vec<_> = history[1..].iter().map(StoredArray::read).collect();
        assert_eq!((count.reads(), count.most_at_once()), (7, 3));
        drop(together);
    }
}
