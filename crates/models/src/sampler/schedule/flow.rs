//! The grid of diffusers' `FlowMatchEulerDiscreteScheduler` with given noise levels, as the pipelines of FLUX use it
//! (specification `flux`, section 2): equal steps from pure noise, shifted by a constant or by how many tokens the
//! picture has. Everything is computed in f32, in the order of the reference.

use std::path::Path;

use serde::Deserialize;
use storyloom_nn::error::{ModelError, Result};

use super::Schedule;

/// `scheduler_config.json` of the class.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default)]
pub struct FlowConfig {
    /// Timesteps are noise levels times this.
    pub num_train_timesteps: u32,
    /// The shift where it does not depend on the picture; else it is not used.
    pub shift: f64,
    /// Whether the shift depends on how many tokens the picture has.
    pub use_dynamic_shifting: bool,
    /// `mu` at [`base_image_seq_len`](Self::base_image_seq_len) tokens.
    pub base_shift: f64,
    /// `mu` at [`max_image_seq_len`](Self::max_image_seq_len) tokens.
    pub max_shift: f64,
    /// Tokens of a small picture.
    pub base_image_seq_len: u32,
    /// Tokens of a large picture.
    pub max_image_seq_len: u32,
    /// How `mu` shifts.
    pub time_shift_type: TimeShift,
    /// The last noise level before 0, which the others are stretched to.
    pub shift_terminal: Option<f64>,
    /// Whether levels rise from 0 to 1.
    pub invert_sigmas: bool,
    /// Whether fresh noise is added at every step; see [`stochastic_step`](super::super::solver::stochastic_step).
    pub stochastic_sampling: bool,
    use_karras_sigmas: bool,
    use_exponential_sigmas: bool,
    use_beta_sigmas: bool,
}

/// How a picture's `mu` shifts noise levels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TimeShift {
    /// By `e^mu`.
    Exponential,
    /// By `mu` itself.
    Linear,
}

impl Default for FlowConfig {
    /// The defaults of the reference class, those of FLUX.1-schnell.
    fn default() -> Self {
        Self {
            num_train_timesteps: 1000,
            shift: 1.0,
            use_dynamic_shifting: false,
            base_shift: 0.5,
            max_shift: 1.15,
            base_image_seq_len: 256,
            max_image_seq_len: 4096,
            time_shift_type: TimeShift::Exponential,
            shift_terminal: None,
            invert_sigmas: false,
            stochastic_sampling: false,
            use_karras_sigmas: false,
            use_exponential_sigmas: false,
            use_beta_sigmas: false,
        }
    }
}

/// Noise levels of `steps` equal steps from pure noise, before any shift.
pub fn even_sigmas(steps: usize) -> Vec<f32> {
    let Some(span) = steps.checked_sub(1).filter(|&span| span > 0) else {
        return vec![1.0; steps];
    };
    let last = 1.0 / steps as f64;
    let step = (last - 1.0) / span as f64;
    let level = |i: usize| match i == span {
        true => last,
        false => 1.0 + i as f64 * step,
    };
    (0..steps).map(|i| level(i) as f32).collect()
}

impl FlowConfig {
    /// FLUX.1-dev and Kontext.
    pub fn dev() -> Self {
        Self {
            shift: 3.0,
            use_dynamic_shifting: true,
            ..Self::default()
        }
    }

    /// Reads a `scheduler_config.json`.
    ///
    /// # Errors
    /// The file cannot be read, is of another class, or asks for a grid that is not known.
    pub fn read(path: &Path) -> Result<Self> {
        let wrong = |reason: String| ModelError::bad_file(path, reason);
        let text = std::fs::read(path).map_err(|error| ModelError::io(path, error))?;
        let json: serde_json::Value =
            serde_json::from_slice(&text).map_err(|error| wrong(error.to_string()))?;
        let class = json["_class_name"].as_str().unwrap_or("an unknown class");
        if class != "FlowMatchEulerDiscreteScheduler" {
            let reason = format!("{class} is not FlowMatchEulerDiscreteScheduler");
            return Err(wrong(reason));
        }
        let config: Self =
            serde_json::from_value(json).map_err(|error| wrong(error.to_string()))?;
        config.check().map_err(wrong)?;
        Ok(config)
    }

    fn check(&self) -> Result<(), String> {
        let grids = [
            ("use_karras_sigmas", self.use_karras_sigmas),
            ("use_exponential_sigmas", self.use_exponential_sigmas),
            ("use_beta_sigmas", self.use_beta_sigmas),
        ];
        if let Some((key, _)) = grids.into_iter().find(|&(_, is_wanted)| is_wanted) {
            return Err(format!("{key} is not supported"));
        }
        if !(self.shift.is_finite() && self.shift > 0.0) {
            return Err(format!("shift = {} is not positive", self.shift));
        }
        if self.max_image_seq_len <= self.base_image_seq_len {
            return Err("max_image_seq_len must be above base_image_seq_len".to_owned());
        }
        if let Some(last) = self
            .shift_terminal
            .filter(|last| !(0.0..1.0).contains(last))
        {
            return Err(format!("shift_terminal = {last} is not in [0, 1)"));
        }
        Ok(())
    }

    /// `mu` of a picture of `tokens` tokens that are made; those of conditions, memory and text do not count. It is
    /// not clamped.
    pub fn mu(&self, tokens: i64) -> f64 {
        let [least, most] = [self.base_image_seq_len, self.max_image_seq_len].map(f64::from);
        let slope = (self.max_shift - self.base_shift) / (most - least);
        tokens as f64 * slope + (self.base_shift - slope * least)
    }

    /// The grid of `steps` equal steps for a picture of `tokens` tokens that are made.
    ///
    /// # Errors
    /// There is no step.
    pub fn schedule(&self, steps: usize, tokens: i64) -> Result<Schedule> {
        let mu = self.use_dynamic_shifting.then(|| self.mu(tokens));
        self.schedule_of(&even_sigmas(steps), mu)
    }

    /// The grid of given noise levels, which are shifted, stretched and inverted as the config says.
    ///
    /// # Errors
    /// There is no level, or the shift depends on the picture and there is no `mu`.
    pub fn schedule_of(&self, sigmas: &[f32], mu: Option<f64>) -> Result<Schedule> {
        self.check()
            .map_err(|reason| ModelError::input("scheduler", reason))?;
        if sigmas.is_empty() {
            let reason = "at least one step is needed";
            return Err(ModelError::input("sampler.steps", reason));
        }
        let mut levels = self.shifted(sigmas, mu)?;
        if let Some(terminal) = self.shift_terminal {
            stretch(&mut levels, terminal);
        }
        if self.invert_sigmas {
            levels.iter_mut().for_each(|level| *level = 1.0 - *level);
        }
        let thousand = self.num_train_timesteps as f32;
        let timesteps = levels.iter().map(|level| f64::from(level * thousand));
        let timesteps = timesteps.collect();
        levels.push(if self.invert_sigmas { 1.0 } else { 0.0 });
        Ok(Schedule {
            sigmas: levels.into_iter().map(f64::from).collect(),
            timesteps,
        })
    }

    fn shifted(&self, sigmas: &[f32], mu: Option<f64>) -> Result<Vec<f32>> {
        if !self.use_dynamic_shifting {
            let (shift, less) = (self.shift as f32, (self.shift - 1.0) as f32);
            let shifted = |&sigma: &f32| shift * sigma / (1.0 + less * sigma);
            return Ok(sigmas.iter().map(shifted).collect());
        }
        let Some(mu) = mu else {
            let reason = "use_dynamic_shifting needs the number of tokens (mu)";
            return Err(ModelError::input("scheduler", reason));
        };
        let factor = match self.time_shift_type {
            TimeShift::Exponential => mu.exp(),
            TimeShift::Linear => mu,
        } as f32;
        let shifted = |&sigma: &f32| factor / (factor + (1.0 / sigma - 1.0));
        Ok(sigmas.iter().map(shifted).collect())
    }
}

/// Stretches the shares of clean latents such that the last level is `terminal`.
fn stretch(levels: &mut [f32], terminal: f64) {
    let last = levels.last().map_or(0.0, |last| 1.0 - last);
    let scale = last / (1.0 - terminal) as f32;
    for level in levels {
        *level = 1.0 - (1.0 - *level) / scale;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sampler::{SamplerKind, Solver};
    use storyloom_nn::testing::vectors::{assert_begins, assert_near, flux_vector, numbers};
    use tch::Tensor;

    fn agrees(name: &str, schedule: &Schedule) {
        let expected = &flux_vector("schedule/cases")[name];
        assert_near(name, schedule.sigmas(), &numbers(&expected["sigmas"]), 1e-7);
        if let Some(timesteps) = expected.get("timesteps") {
            assert_near(name, schedule.timesteps(), &numbers(timesteps), 1e-4);
        }
    }

    #[test]
    fn mu_grows_with_the_tokens_and_is_not_clamped() {
        let config = FlowConfig::dev();
        for (tokens, mu) in flux_vector("mu/values").as_object().unwrap() {
            let found = config.mu(tokens.parse().unwrap());
            assert_near(tokens, &[found], &[mu.as_f64().unwrap()], 1e-8);
        }
    }

    #[test]
    fn grids_are_those_of_diffusers() {
        let (dev, schnell) = (FlowConfig::dev(), FlowConfig::default());
        for (name, config, steps, tokens) in [
            ("dev_28_1024", &dev, 28, 1024),
            ("dev_28_4096", &dev, 28, 4096),
            ("dev_4_1024", &dev, 4, 1024),
            ("schnell_4", &schnell, 4, 1024),
            ("schnell_1", &schnell, 1, 1024),
        ] {
            agrees(name, &config.schedule(steps, tokens).unwrap());
        }
        let changed = |change: fn(&mut FlowConfig), start: &FlowConfig, steps: usize| {
            let mut config = start.clone();
            change(&mut config);
            config.schedule(steps, 1024).unwrap()
        };
        let terminal = changed(|config| config.shift_terminal = Some(0.02), &dev, 5);
        agrees("terminal_0.02", &terminal);
        let linear = changed(|config| config.time_shift_type = TimeShift::Linear, &dev, 4);
        agrees("linear_type", &linear);
        let inverted = changed(|config| config.invert_sigmas = true, &schnell, 4);
        agrees("inverted", &inverted);
        let shifted = changed(|config| config.shift = 3.0, &schnell, 4);
        agrees("static_shift_3", &shifted);
        // What the class does by itself, and no pipeline of FLUX.
        let by_itself: Vec<f32> = [1000.0, 667.0, 334.0, 1.0]
            .map(|time: f32| time / 1000.0)
            .to_vec();
        let by_itself = dev.schedule_of(&by_itself, Some(dev.mu(1024))).unwrap();
        agrees("dev_4_1024_sigmas_not_given", &by_itself);
    }

    #[test]
    fn euler_walks_the_grid() {
        let schedule = FlowConfig::dev().schedule(4, 1024).unwrap();
        let mut solver = Solver::new(SamplerKind::Euler, &schedule);
        let mut sample = Tensor::from_slice(&[1.5_f32, -2.0, 0.25]);
        let expected = flux_vector("euler_trace/samples");
        for step in 0..4_u8 {
            let velocity = Tensor::from_slice(&[0.25_f32, -0.5, 1.0]) * f64::from(step + 1);
            sample = solver.step(&velocity, &sample).unwrap();
            assert_begins("trace", &sample, &expected[usize::from(step)], 1e-6);
        }
    }

    #[test]
    fn other_grids_are_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("scheduler_config.json");
        let read = |text: &str| {
            let class = r#""_class_name": "FlowMatchEulerDiscreteScheduler""#;
            std::fs::write(&path, format!("{{{class}{text}}}")).unwrap();
            FlowConfig::read(&path)
        };
        for key in [
            "use_karras_sigmas",
            "use_exponential_sigmas",
            "use_beta_sigmas",
        ] {
            let error = read(&format!(r#", "{key}": true"#)).unwrap_err();
            assert!(error.to_string().contains(key), "{error}");
        }
        for (text, name) in [
            (r#", "shift": 0"#, "shift"),
            (r#", "shift_terminal": 1"#, "shift_terminal"),
            (r#", "max_image_seq_len": 256"#, "max_image_seq_len"),
            (r#", "time_shift_type": "cosine""#, "cosine"),
            (
                r#", "_class_name": "EulerDiscreteScheduler""#,
                "EulerDiscreteScheduler",
            ),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.to_string().contains(name), "{error}");
        }
        let dev = read(r#", "shift": 3.0, "use_dynamic_shifting": true"#).unwrap();
        assert_eq!(dev, FlowConfig::dev());
        let error = dev.schedule_of(&[1.0], None).unwrap_err();
        assert!(error.to_string().contains("mu"), "{error}");
        assert!(dev.schedule(0, 1024).is_err());
    }
}
