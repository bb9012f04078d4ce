//! What the networks of a loop see, and its way between ranks.

use storyloom_nn::error::{ModelError, Result};

use super::wire::Tensors;
use crate::backbone::Conditioning;

/// What the networks of a loop see, with and without what is wanted.
#[derive(Debug, Default)]
pub struct LoopConditions {
    /// What both predictions of a guided step see.
    pub shared: Conditioning,
    /// What only the first prediction sees.
    pub positive: Conditioning,
    /// What the second one sees instead, for guidance that draws away from it.
    pub negative: Conditioning,
}

/// One of the two predictions of a guided step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Branch {
    Positive,
    Negative,
}

const SHARED: &str = "shared";
const POSITIVE: &str = "positive";
const NEGATIVE: &str = "negative";

impl LoopConditions {
    /// Everything that one prediction sees.
    pub(crate) fn branch(&self, branch: Branch) -> Conditioning {
        let own = match branch {
            Branch::Positive => &self.positive,
            Branch::Negative => &self.negative,
        };
        let tensors = self.shared.tensors().chain(own.tensors());
        tensors.fold(Conditioning::default(), |all, (name, tensor)| {
            all.with(name, tensor)
        })
    }

    /// The same, to be sampled with what was negative alone.
    pub(crate) fn negative_alone(&self) -> Self {
        let copy = |of: &Conditioning| {
            let tensors = of.tensors();
            tensors.fold(Conditioning::default(), |all, (name, tensor)| {
                all.with(name, tensor)
            })
        };
        Self {
            shared: copy(&self.shared),
            positive: copy(&self.negative),
            negative: Conditioning::default(),
        }
    }

    /// As tensors of a message; without the negative part if it is not `guided`.
    pub(crate) fn tensors(&self, guided: bool) -> Tensors {
        let mut tensors = Tensors::new();
        let negative = guided.then_some((NEGATIVE, &self.negative));
        let parts = [(SHARED, &self.shared), (POSITIVE, &self.positive)];
        for (part, conditioning) in parts.into_iter().chain(negative) {
            for (name, tensor) in conditioning.tensors() {
                tensors.insert(format!("{part}.{name}"), tensor);
            }
        }
        tensors
    }

    /// The inverse of [`tensors`](Self::tensors).
    ///
    /// # Errors
    /// A name is of no part.
    pub(crate) fn of(tensors: Tensors) -> Result<Self> {
        let mut conditions = Self::default();
        for (name, tensor) in tensors {
            let unknown = || ModelError::input("conditions", format!("{name} is of no part"));
            let (part, inside) = name.split_once('.').ok_or_else(unknown)?;
            let conditioning = match part {
                SHARED => &mut conditions.shared,
                POSITIVE => &mut conditions.positive,
                NEGATIVE => &mut conditions.negative,
                _ => return Err(unknown()),
            };
            *conditioning = std::mem::take(conditioning).with(inside, tensor);
        }
        Ok(conditions)
    }
}

#[cfg(test)]
mod tests {
    use tch::Tensor;

    use super::*;

    #[test]
    fn both_predictions_see_what_is_shared() {
        let conditions = || LoopConditions {
            shared: Conditioning::default().with("channels", Tensor::from(1.0)),
            positive: Conditioning::default().with("text", Tensor::from(2.0)),
            negative: Conditioning::default().with("text", Tensor::from(3.0)),
        };
        let value = |conditions: &LoopConditions, branch, name: &str| {
            let of_branch = conditions.branch(branch);
            of_branch.get(name).map(|tensor| tensor.double_value(&[]))
        };
        for guided in [true, false] {
            let found = LoopConditions::of(conditions().tensors(guided)).unwrap();
            for branch in [Branch::Positive, Branch::Negative] {
                assert_eq!(value(&found, branch, "channels"), Some(1.0));
            }
            assert_eq!(value(&found, Branch::Positive, "text"), Some(2.0));
            let negative = guided.then_some(3.0);
            assert_eq!(value(&found, Branch::Negative, "text"), negative);
        }
        let alone = conditions().negative_alone();
        assert_eq!(value(&alone, Branch::Positive, "text"), Some(3.0));
        assert_eq!(value(&alone, Branch::Positive, "channels"), Some(1.0));
        for wrong in ["text", "other.text"] {
            let tensors = Tensors::from([(wrong.to_owned(), Tensor::from(1.0))]);
            assert!(LoopConditions::of(tensors).is_err(), "{wrong}");
        }
    }
}
