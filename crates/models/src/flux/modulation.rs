//! Shifts, scales and gates of all blocks (specification `flux`, 1.4 and 7.4).

use storyloom_nn::checkpoint::Weights;
use storyloom_nn::error::{ModelError, Result};
use storyloom_nn::layers::{Linear, TokenVectors, modulated_layer_norm};
use tch::{Kind, Tensor};

use super::FluxConfig;

/// Vectors of one norm, each f32 `[rows, width]`.
#[derive(Debug)]
pub(super) struct NormVectors {
    /// One more than the scale of the reference.
    scale: Tensor,
    shift: Tensor,
}

impl NormVectors {
    /// `norm(hidden) * scale + shift` of `[batch, tokens, width]`, rounded once to `kind`.
    pub(super) fn normed(&self, hidden: &Tensor, kind: Kind) -> Result<Tensor> {
        let (scale, shift) = (of_samples(&self.scale), of_samples(&self.shift));
        modulated_layer_norm(hidden, FluxConfig::EPS, &scale, &shift, kind)
    }

    fn rows(&self, first: i64, count: i64) -> Result<Self> {
        Ok(Self {
            scale: self.scale.f_narrow(0, first, count)?,
            shift: self.shift.f_narrow(0, first, count)?,
        })
    }
}

/// Vectors of one norm and of the gate behind it.
#[derive(Debug)]
pub(super) struct Vectors {
    norm: NormVectors,
    /// f32 `[rows, width]`.
    gate: Tensor,
}

impl Vectors {
    /// As [`NormVectors::normed`].
    pub(super) fn normed(&self, hidden: &Tensor, kind: Kind) -> Result<Tensor> {
        self.norm.normed(hidden, kind)
    }

    /// What a gate lets through of the values that are added to the residual stream.
    pub(super) fn gate(&self) -> TokenVectors<'_> {
        of_samples(&self.gate)
    }

    fn rows(&self, first: i64, count: i64) -> Result<Self> {
        Ok(Self {
            norm: self.norm.rows(first, count)?,
            gate: self.gate.f_narrow(0, first, count)?,
        })
    }
}

/// Row `b` for all tokens of sample `b`.
fn of_samples(rows: &Tensor) -> TokenVectors<'static> {
    TokenVectors {
        rows: rows.shallow_clone(),
        index: None,
    }
}

/// The layer that makes the vectors of one or two norms of `rows` conditions.
#[derive(Debug)]
pub(super) struct ModulationLayer {
    linear: Linear,
    width: i64,
}

impl ModulationLayer {
    /// Loads a layer of `chunks` vectors.
    pub(super) fn load(weights: &Weights, width: i64, chunks: i64) -> Result<Self> {
        Ok(Self {
            linear: Linear::load(weights, width, chunks * width)?,
            width,
        })
    }

    pub(super) fn linear_mut(&mut self) -> &mut Linear {
        &mut self.linear
    }

    /// Everything that `condition`, `[rows, width]` f32 behind its SiLU, gives: `[rows, chunks * width]` f32.
    fn chunks(&self, condition: &Tensor) -> Result<Tensor> {
        self.linear.forward_wide(condition)
    }

    /// Chunk `which`, in the order of the weight.
    fn chunk(&self, chunks: &Tensor, which: i64) -> Result<Tensor> {
        let chunk = chunks.f_narrow(1, which * self.width, self.width)?;
        Ok(chunk.f_contiguous()?)
    }

    /// Shift, scale and gate, in this order from chunk `first` on.
    fn gated(&self, chunks: &Tensor, first: i64) -> Result<Vectors> {
        Ok(Vectors {
            norm: NormVectors {
                shift: self.chunk(chunks, first)?,
                scale: self.chunk(chunks, first + 1)?.f_add_scalar(1.0)?,
            },
            gate: self.chunk(chunks, first + 2)?,
        })
    }

    /// The vectors of a single block.
    pub(super) fn single(&self, condition: &Tensor) -> Result<Vectors> {
        self.gated(&self.chunks(condition)?, 0)
    }

    /// The vectors of a stream of a double block: those of the attention, then those of the feed-forward layer.
    pub(super) fn double(&self, condition: &Tensor) -> Result<[Vectors; 2]> {
        let chunks = self.chunks(condition)?;
        Ok([self.gated(&chunks, 0)?, self.gated(&chunks, 3)?])
    }

    /// Scale and shift of the last norm: the other way round than everywhere else (diffusers
    /// `AdaLayerNormContinuous`).
    pub(super) fn last(&self, condition: &Tensor) -> Result<NormVectors> {
        let chunks = self.chunks(condition)?;
        Ok(NormVectors {
            scale: self.chunk(&chunks, 0)?.f_add_scalar(1.0)?,
            shift: self.chunk(&chunks, 1)?,
        })
    }
}

/// The vectors of a whole forward: for each double block those of image and text, two norms each, for each single
/// block those of its norm, and those of the last norm.
#[derive(Debug)]
pub struct StepModulation {
    pub(super) doubles: Vec<[[Vectors; 2]; 2]>,
    pub(super) singles: Vec<Vectors>,
    pub(super) last: NormVectors,
}

/// The vectors of several steps of one batch.
///
/// Nothing of them depends on the sample. They are computed once per picture, all steps in one product per layer:
/// other row counts would round differently, so that this is the definition, also for a run that goes on in the
/// middle.
#[derive(Debug)]
pub struct Modulations {
    /// Rows are steps, slowest, then samples.
    all: StepModulation,
    steps: usize,
    batch: i64,
}

impl Modulations {
    pub(super) fn new(all: StepModulation, steps: usize, batch: i64) -> Self {
        Self { all, steps, batch }
    }

    /// Samples of the batch.
    pub fn batch(&self) -> i64 {
        self.batch
    }

    /// How many steps.
    pub fn steps(&self) -> usize {
        self.steps
    }

    /// The vectors of one step.
    ///
    /// # Errors
    /// There is no such step.
    pub fn step(&self, step: usize) -> Result<StepModulation> {
        if step >= self.steps {
            let reason = format!("there are {}", self.steps);
            return Err(ModelError::input(format!("step {step}"), reason));
        }
        let first = step as i64 * self.batch;
        let rows = |vectors: &Vectors| vectors.rows(first, self.batch);
        let both = |[first, second]: &[Vectors; 2]| -> Result<[Vectors; 2]> {
            Ok([rows(first)?, rows(second)?])
        };
        let doubles = self.all.doubles.iter();
        let doubles = doubles.map(|[image, text]| Ok::<_, ModelError>([both(image)?, both(text)?]));
        Ok(StepModulation {
            doubles: doubles.collect::<Result<_>>()?,
            singles: self.all.singles.iter().map(rows).collect::<Result<_>>()?,
            last: self.all.last.rows(first, self.batch)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use storyloom_nn::testing::vectors::{assert_begins, flux_vector};
    use storyloom_nn::testing::weights_of;
    use tch::Device;

    /// A layer of width 2 whose bias is 0.1, 0.2, …
    fn layer(chunks: i64) -> ModulationLayer {
        let zeros = Tensor::zeros([2 * chunks, 2], (Kind::Float, Device::Cpu));
        let bias = (Tensor::arange(2 * chunks, (Kind::Float, Device::Cpu)) + 1.0) / 10.0;
        let tensors = [("weight", &zeros), ("bias", &bias)];
        weights_of(&tensors, |weights| {
            ModulationLayer::load(weights, 2, chunks)
        })
    }

    /// Specification `flux`, 1.4; the second row tells the epsilon.
    #[test]
    fn chunks_have_their_order() {
        let vector = flux_vector("modulation_order");
        let hidden = Tensor::from_slice(&[1.0_f32, 3.0, 0.002, 0.001]).view([1, 2, 2]);
        let condition = Tensor::zeros([1, 2], (Kind::Float, Device::Cpu));
        let normed = |vectors: &Vectors| vectors.normed(&hidden, Kind::Float).unwrap();
        let double = layer(6).double(&condition).unwrap();
        let single = layer(3).single(&condition).unwrap();
        for (name, vectors) in [("zero", &double[0]), ("single", &single)] {
            assert_begins(name, &normed(vectors), &vector[name]["normed"], 1e-6);
            assert_begins(name, &vectors.gate().rows, &vector[name]["gate"], 1e-6);
        }
        let zero = &vector["zero"];
        assert_begins("shift_mlp", &double[1].norm.shift, &zero["shift_mlp"], 1e-6);
        assert_begins(
            "scale_mlp",
            &(&double[1].norm.scale - 1.0),
            &zero["scale_mlp"],
            1e-6,
        );
        assert_begins("gate_mlp", &double[1].gate().rows, &zero["gate_mlp"], 1e-6);
        let last = layer(2).last(&condition).unwrap();
        let last = last.normed(&hidden, Kind::Float).unwrap();
        assert_begins("final", &last, &vector["final"]["normed"], 1e-6);
    }
}
