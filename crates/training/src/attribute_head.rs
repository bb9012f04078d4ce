//! Reading attributes from features: every place votes for a class of every attribute, and what an
//! attribute is read from is where its votes are trusted.
//!
//! The reader does so with squares of a picture, and the text encoder learns from it, with the words
//! of a caption, which colour belongs to which thing.

use storyloom_nn::checkpoint::Weights;
use storyloom_nn::tch::{Kind, Reduction, Tensor};
use storyloom_tinyworld::{Attribute, Scene};

use crate::error::Result;

/// Class of what is not to be seen or not told.
const NOTHING: i64 = -100;

/// Two affine maps of the features of a place.
#[derive(Debug)]
pub struct AttributeHead {
    /// To a score for every class of all attributes, `[classes, channels]` and `[classes]`.
    votes: [Tensor; 2],
    /// To a score of the place itself for every attribute.
    trust: [Tensor; 2],
}

/// Classes of all attributes together.
pub fn classes() -> i64 {
    let counts = Attribute::ALL
        .iter()
        .map(|attribute| attribute.classes().len());
    counts.sum::<usize>() as i64
}

/// Names and shapes of the weights for features of `channels` channels.
pub fn layout(channels: i64) -> [(&'static str, Vec<i64>); 4] {
    let attributes = Attribute::ALL.len() as i64;
    [
        ("votes.weight", vec![classes(), channels]),
        ("votes.bias", vec![classes()]),
        ("trust.weight", vec![attributes, channels]),
        ("trust.bias", vec![attributes]),
    ]
}

/// The columns of each attribute in scores `[samples, classes]`, in the order of
/// [`Attribute::ALL`].
pub fn columns(scores: &Tensor) -> Result<Vec<Tensor>> {
    let counts = Attribute::ALL
        .iter()
        .map(|attribute| attribute.classes().len() as i64);
    Ok(scores.f_split_with_sizes(counts.collect::<Vec<_>>(), 1)?)
}

impl AttributeHead {
    /// Takes what [`layout`] lists from `weights`.
    pub fn load(weights: &Weights, channels: i64) -> storyloom_nn::Result<Self> {
        let [votes, votes_bias, trust, trust_bias] =
            layout(channels).map(|(name, shape)| weights.take(name, &shape));
        Ok(Self {
            votes: [votes?, votes_bias?],
            trust: [trust?, trust_bias?],
        })
    }

    /// Of the weights that `tensor` has for the names of [`layout`].
    pub fn of(tensor: impl Fn(&str) -> Tensor) -> Self {
        let map = |name: &str| ["weight", "bias"].map(|part| tensor(&format!("{name}.{part}")));
        Self {
            votes: map("votes"),
            trust: map("trust"),
        }
    }

    /// Scores `[samples, classes]` of features `[samples, places, channels]`. Places whose `mask`
    /// `[samples, places]` is 0 have no vote.
    pub fn scores(&self, features: &Tensor, mask: Option<&Tensor>) -> Result<Tensor> {
        let map = |[weight, bias]: &[Tensor; 2]| features.f_linear(weight, Some(bias));
        let mut trust = map(&self.trust)?;
        if let Some(mask) = mask {
            let nobody = mask.f_eq(0)?.f_unsqueeze(-1)?;
            trust = trust.f_masked_fill(&nobody, f64::NEG_INFINITY)?;
        }
        let of_class: Vec<i64> = (0..)
            .zip(Attribute::ALL)
            .flat_map(|(number, attribute)| attribute.classes().into_iter().map(move |_| number))
            .collect();
        let of_class = Tensor::f_from_slice(&of_class)?.f_to_device(features.device())?;
        let trust = trust
            .f_softmax(1, Kind::Float)?
            .f_index_select(2, &of_class)?;
        let sums = map(&self.votes)?.f_mul(&trust)?;
        Ok(sums.f_sum_dim_intlist([1_i64].as_slice(), false, Kind::Float)?)
    }
}

/// What should be read from some samples.
#[derive(Debug)]
pub struct Answers {
    /// For each attribute the class of each sample, or [`NOTHING`].
    classes: Vec<Vec<i64>>,
}

impl Default for Answers {
    fn default() -> Self {
        Self {
            classes: vec![Vec::new(); Attribute::ALL.len()],
        }
    }
}

impl Answers {
    /// One more sample; `None` shows and tells nothing.
    pub fn push(&mut self, scene: Option<&Scene>) {
        for (attribute, classes) in Attribute::ALL.iter().zip(&mut self.classes) {
            let class = scene.and_then(|scene| attribute.of(scene));
            classes.push(class.map_or(NOTHING, |class| class as i64));
        }
    }

    /// The cross entropy of `scores`, a mean over attributes of means over samples.
    pub fn loss(&self, scores: &Tensor) -> Result<Tensor> {
        let mut losses = Vec::with_capacity(self.classes.len());
        for (scores, classes) in columns(scores)?.iter().zip(&self.classes) {
            let known = classes.iter().filter(|&&class| class != NOTHING).count();
            let classes = Tensor::f_from_slice(classes)?.f_to_device(scores.device())?;
            let none = None::<&Tensor>;
            let sum = scores.f_cross_entropy_loss(&classes, none, Reduction::Sum, NOTHING, 0.0)?;
            losses.push(sum.f_div_scalar(known.max(1) as f64)?);
        }
        Ok(Tensor::f_stack(&losses, 0)?.f_mean(Kind::Float)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use storyloom_nn::tch::Device;
    use storyloom_tinyworld::{Sample, Split};

    const FLOAT: (Kind, Device) = (Kind::Float, Device::Cpu);

    /// Features are scores themselves; place 1 is trusted, where it may vote.
    fn head() -> AttributeHead {
        AttributeHead::of(|name| match name {
            "votes.weight" => Tensor::eye(classes(), FLOAT),
            "votes.bias" => Tensor::zeros([classes()], FLOAT),
            "trust.weight" => Tensor::ones([Attribute::ALL.len() as i64, classes()], FLOAT),
            _ => Tensor::zeros([Attribute::ALL.len() as i64], FLOAT),
        })
    }

    #[test]
    fn trusted_places_decide() {
        let features = Tensor::zeros([1, 3, classes()], FLOAT);
        let _ = features.get(0).get(1).fill_(1.0);
        let _ = features.get(0).get(2).fill_(-1.0);
        let all = head().scores(&features, None).unwrap();
        assert_eq!(all.size(), [1, classes()]);
        assert!(all.min().double_value(&[]) > 0.99);
        let mask = Tensor::from_slice(&[1_i64, 0, 1]).view([1, 3]);
        let others = head().scores(&features, Some(&mask)).unwrap();
        assert!(others.abs().max().double_value(&[]) < 0.01);
    }

    #[test]
    fn right_scores_cost_less_and_nothing_costs_nothing() {
        let scene = Sample::draw(1, 1, Split::Train).scene;
        let mut answers = Answers::default();
        answers.push(Some(&scene));
        let mut right = vec![0.0_f32; classes() as usize];
        let mut start = 0;
        for attribute in Attribute::ALL {
            if let Some(class) = attribute.of(&scene) {
                right[start + class] = 5.0;
            }
            start += attribute.classes().len();
        }
        let right = Tensor::from_slice(&right).view([1, classes()]);
        let wrong = -right.shallow_clone();
        let cost = |answers: &Answers, scores| answers.loss(scores).unwrap().double_value(&[]);
        assert!(cost(&answers, &right) < 0.1);
        assert!(cost(&answers, &wrong) > 2.0);
        let mut silent = Answers::default();
        silent.push(None);
        assert_eq!(cost(&silent, &right), 0.0);
    }
}
