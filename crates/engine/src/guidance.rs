//! How strongly a prediction is drawn towards its conditions.

use storyloom_nn::error::Result;
use tch::Tensor;

/// The guidance of a phase of sampling.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Guidance {
    /// What the network predicts is taken as it is.
    None,
    /// Classifier-free guidance: a second prediction with the negative conditions, away from which
    /// the first is drawn.
    Classifier {
        /// How far.
        scale: f64,
    },
    /// The network is told the scale and predicts once.
    Embedded {
        /// What it is told.
        scale: f64,
    },
}

impl Guidance {
    /// Classifier-free guidance of this scale; a scale of exactly 1 needs no second prediction.
    pub fn classifier(scale: f64) -> Self {
        match scale == 1.0 {
            true => Self::None,
            false => Self::Classifier { scale },
        }
    }

    /// Whether there is a second prediction with the negative conditions.
    pub fn is_two_fold(self) -> bool {
        matches!(self, Self::Classifier { .. })
    }

    /// What the network is told.
    pub fn embedded(self) -> Option<f64> {
        match self {
            Self::Embedded { scale } => Some(scale),
            Self::None | Self::Classifier { .. } => None,
        }
    }

    /// `negative + scale * (positive - negative)`, all of one shape in f32. Without classifier-free
    /// guidance or a negative prediction it is `positive`.
    ///
    /// # Errors
    /// libtorch refuses.
    pub fn combine(self, positive: Tensor, negative: Option<&Tensor>) -> Result<Tensor> {
        let (Self::Classifier { scale }, Some(negative)) = (self, negative) else {
            return Ok(positive);
        };
        Ok(positive
            .f_sub(negative)?
            .f_mul_scalar_(scale)?
            .f_add_(negative)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn predictions_are_drawn_away_from_the_negative_one() {
        let [positive, negative] = [[3.0_f32, 1.0], [1.0, 2.0]].map(|v| Tensor::from_slice(&v));
        let guidance = Guidance::classifier(2.5);
        assert!(guidance.is_two_fold());
        let found = guidance.combine(positive.copy(), Some(&negative)).unwrap();
        assert_eq!(found, Tensor::from_slice(&[6.0_f32, -0.5]));
        let embedded = Guidance::Embedded { scale: 3.5 };
        assert_eq!(embedded.embedded(), Some(3.5));
        for one in [Guidance::classifier(1.0), embedded] {
            assert!(!one.is_two_fold());
            let found = one.combine(positive.copy(), Some(&negative)).unwrap();
            assert_eq!(found, positive);
        }
    }
}
