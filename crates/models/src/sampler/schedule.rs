//! Grids of noise levels (specification `wan22`, section 5.2).

use serde::{Deserialize, Serialize};
use storyloom_nn::error::{ModelError, Result};

use super::{Reference, SamplerKind};

/// Timesteps are noise levels times this.
const TRAIN_TIMESTEPS: f64 = 1000.0;

/// What decides a grid.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct SamplerSettings {
    /// The solver.
    pub kind: SamplerKind,
    /// Whose grid.
    pub reference: Reference,
    /// Number of steps.
    pub steps: usize,
    /// Flow shift; larger spends more steps at high noise.
    pub shift: f64,
    /// Timesteps from `boundary * 1000` up go to the high-noise expert; `None`: one expert.
    pub boundary: Option<f64>,
}

/// One of the two transformers of a Wan2.2 A14B pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Expert {
    /// `transformer`, for timesteps at or above the boundary.
    High,
    /// `transformer_2`, below it.
    Low,
}

/// A grid: `steps + 1` noise levels, the last 0, and the timestep the model is told at each step.
#[derive(Debug, Clone, PartialEq)]
pub struct Schedule {
    sigmas: Vec<f64>,
    timesteps: Vec<f64>,
    boundary: Option<f64>,
}

impl Schedule {
    /// Computes the grid of `settings`.
    pub fn new(settings: &SamplerSettings) -> Result<Self> {
        let SamplerSettings {
            kind,
            reference,
            steps,
            shift,
            boundary,
        } = *settings;
        if steps == 0 {
            return Err(ModelError::input(
                "sampler.steps",
                "at least one step is needed",
            ));
        }
        if !(shift.is_finite() && shift > 0.0) {
            return Err(ModelError::input(
                "sampler.shift",
                format!("{shift} is not positive"),
            ));
        }
        let (mut sigmas, timesteps) = match (kind, reference) {
            (SamplerKind::UniPc, Reference::Wan) => wan_unipc(steps, shift),
            (SamplerKind::UniPc, Reference::Diffusers) => diffusers_unipc(steps, shift),
            (SamplerKind::Euler, Reference::Diffusers) => diffusers_euler(steps, shift),
            (SamplerKind::DpmPlusPlus, _) | (SamplerKind::Euler, Reference::Wan) => {
                wan_dpm(steps, shift)
            }
        };
        sigmas.push(0.0);
        Ok(Self {
            sigmas,
            timesteps,
            boundary,
        })
    }

    /// Number of steps.
    pub fn steps(&self) -> usize {
        self.timesteps.len()
    }

    /// Noise levels, `steps + 1` of them, falling to 0. Each is an f32 value, as in the
    /// references.
    pub fn sigmas(&self) -> &[f64] {
        &self.sigmas
    }

    /// What the model is told at each step.
    pub fn timesteps(&self) -> &[f64] {
        &self.timesteps
    }

    /// The expert of step `step`.
    pub fn expert(&self, step: usize) -> Expert {
        match self.boundary {
            Some(boundary) if self.timesteps[step] < boundary * TRAIN_TIMESTEPS => Expert::Low,
            _ => Expert::High,
        }
    }
}

fn shifted(sigma: f64, shift: f64) -> f64 {
    shift * sigma / (1.0 + (shift - 1.0) * sigma)
}

/// The solvers of the references hold noise levels in f32.
fn as_f32(sigma: f64) -> f64 {
    f64::from(sigma as f32)
}

fn with_integer_timesteps(sigmas: Vec<f64>) -> (Vec<f64>, Vec<f64>) {
    let timesteps = sigmas
        .iter()
        .map(|sigma| (sigma * TRAIN_TIMESTEPS).trunc())
        .collect();
    (sigmas.into_iter().map(as_f32).collect(), timesteps)
}

fn wan_unipc(steps: usize, shift: f64) -> (Vec<f64>, Vec<f64>) {
    let first = f64::from(0.999_f32);
    let sigma = |i: usize| shifted(first * (1.0 - i as f64 / steps as f64), shift);
    with_integer_timesteps((0..steps).map(sigma).collect())
}

fn diffusers_unipc(steps: usize, shift: f64) -> (Vec<f64>, Vec<f64>) {
    let sigma = |i: usize| shifted(1.0 - 0.999 * i as f64 / steps as f64, shift);
    let mut sigmas: Vec<f64> = (0..steps).map(sigma).collect();
    if (sigmas[0] - 1.0).abs() < 1e-6 {
        sigmas[0] -= 1e-6;
    }
    with_integer_timesteps(sigmas)
}

fn wan_dpm(steps: usize, shift: f64) -> (Vec<f64>, Vec<f64>) {
    let sigma = |i: usize| shifted(1.0 - i as f64 / steps as f64, shift);
    with_integer_timesteps((0..steps).map(sigma).collect())
}

/// The shift is applied twice: to the end points and to every level.
fn diffusers_euler(steps: usize, shift: f64) -> (Vec<f64>, Vec<f64>) {
    let last = shifted(0.001, shift);
    let span = (steps.max(2) - 1) as f64;
    let sigma = |i: usize| shifted(1.0 + (last - 1.0) * i as f64 / span, shift);
    let sigmas: Vec<f64> = (0..steps).map(sigma).map(as_f32).collect();
    let timesteps = sigmas.iter().map(|sigma| sigma * TRAIN_TIMESTEPS).collect();
    (sigmas, timesteps)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(kind: SamplerKind, steps: usize, shift: f64, boundary: f64) -> Schedule {
        let reference = Reference::Wan;
        let boundary = Some(boundary);
        Schedule::new(&SamplerSettings {
            kind,
            reference,
            steps,
            shift,
            boundary,
        })
        .unwrap()
    }

    fn high_steps(schedule: &Schedule) -> usize {
        (0..schedule.steps())
            .filter(|&step| schedule.expert(step) == Expert::High)
            .count()
    }

    /// Specification `wan22` 5.2: the lists of the three A14B tasks.
    #[test]
    fn timesteps_of_the_original() {
        let t2v = schedule(SamplerKind::UniPc, 40, 12.0, 0.875);
        let expected = "999 997 995 993 990 988 985 982 979 976 972 969 965 961 956 952 947 941 \
             936 929 922 915 907 898 888 877 865 852 837 819 799 776 749 717 678 631 571 492 386 235";
        assert_eq!(as_text(&t2v), expected);
        assert_eq!(high_steps(&t2v), 26);

        let i2v = schedule(SamplerKind::UniPc, 40, 5.0, 0.9);
        let expected = "999 994 989 983 978 972 965 959 952 944 937 929 920 911 902 892 882 870 \
             859 846 833 818 803 786 768 749 728 706 681 654 624 591 555 514 468 416 356 288 208 113";
        assert_eq!(as_text(&i2v), expected);
        assert_eq!(high_steps(&i2v), 15);

        let m2v = schedule(SamplerKind::UniPc, 40, 4.0, 0.9);
        let expected = "999 993 986 979 972 965 957 949 940 932 922 913 902 892 881 869 856 843 \
             829 815 799 783 765 746 726 705 682 657 631 602 571 536 499 458 413 363 307 244 173 92";
        assert_eq!(as_text(&m2v), expected);
        assert_eq!(high_steps(&m2v), 13);
        assert!((m2v.sigmas()[0] - 0.999_749_8).abs() < 1e-6);
        assert!((m2v.sigmas()[39] - 0.092_936_7).abs() < 1e-6);

        let five_b = schedule(SamplerKind::UniPc, 50, 5.0, 0.0);
        assert_eq!(five_b.timesteps()[..4], [999.0, 995.0, 991.0, 987.0]);
        assert_eq!(five_b.timesteps()[47..], [241.0, 172.0, 92.0]);
    }

    fn as_text(schedule: &Schedule) -> String {
        let numbers: Vec<String> = schedule.timesteps().iter().map(f64::to_string).collect();
        numbers.join(" ")
    }

    /// StoryMem vectors: dpm++ starts at sigma 1, timestep 1000.
    #[test]
    fn dpm_starts_at_pure_noise() {
        let m2v = schedule(SamplerKind::DpmPlusPlus, 40, 4.0, 0.9);
        assert_eq!(m2v.sigmas()[0], 1.0);
        assert_eq!(m2v.timesteps()[..4], [1000.0, 993.0, 987.0, 980.0]);
        assert_eq!(m2v.timesteps()[36..], [307.0, 244.0, 173.0, 93.0]);
        assert_eq!(high_steps(&m2v), 13);
    }

    #[test]
    fn the_two_references_differ_most_at_the_last_step() {
        let settings = SamplerSettings {
            kind: SamplerKind::UniPc,
            reference: Reference::Diffusers,
            steps: 40,
            shift: 12.0,
            boundary: None,
        };
        let diffusers = Schedule::new(&settings).unwrap();
        let wan = schedule(SamplerKind::UniPc, 40, 12.0, 0.875);
        assert!((diffusers.sigmas()[39] - 0.24243).abs() < 1e-5);
        assert!((wan.sigmas()[39] - 0.23511).abs() < 1e-5);
        let differing = diffusers
            .timesteps()
            .iter()
            .zip(wan.timesteps())
            .filter(|(a, b)| a != b);
        assert_eq!(differing.count(), 19);
    }

    #[test]
    fn nonsense_is_refused() {
        let good = SamplerSettings {
            kind: SamplerKind::Euler,
            reference: Reference::Wan,
            steps: 1,
            shift: 1.0,
            boundary: None,
        };
        assert!(Schedule::new(&good).is_ok());
        assert!(Schedule::new(&SamplerSettings { steps: 0, ..good }).is_err());
        assert!(Schedule::new(&SamplerSettings { shift: 0.0, ..good }).is_err());
        assert!(
            Schedule::new(&SamplerSettings {
                shift: f64::NAN,
                ..good
            })
            .is_err()
        );
    }
}
