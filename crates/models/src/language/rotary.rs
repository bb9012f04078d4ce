//! Rotary positions of language models: the two halves of a head are the pairs, and a token may
//! have three positions (time, row, column).

use serde_json::Value;
use tch::{Device, Kind, Tensor};

use storyloom_nn::error::{ModelError, Result};

/// How frequencies are stretched beyond the length that a model was made for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Stretch {
    /// Not at all.
    Plain,
    /// All positions are divided by the factor.
    Linear(f64),
    /// Only slow frequencies are divided, and scores are sharpened.
    Yarn(Yarn),
}

/// Parameters of the YaRN stretch.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Yarn {
    /// By how much contexts grow.
    pub factor: f64,
    /// Length that the model was made for.
    pub original_length: f64,
    /// Turns within that length above which a frequency is kept.
    pub beta_fast: f64,
    /// Turns below which it is divided.
    pub beta_slow: f64,
    /// Factor of cosines and sines.
    pub attention_factor: f64,
    /// Whether the bounds of the ramp are whole numbers of pairs.
    pub truncate: bool,
}

/// Rotary positions by config.
#[derive(Debug, Clone, PartialEq)]
pub struct RotaryConfig {
    /// Base of the frequencies.
    pub theta: f64,
    /// Channels that are rotated: all of a head.
    pub dim: i64,
    /// Stretch of the frequencies.
    pub stretch: Stretch,
    /// Pairs that turn with time, row and column (M-RoPE); `None`: one position a token.
    pub sections: Option<Vec<i64>>,
}

impl RotaryConfig {
    /// Reads `rope_parameters` or the older `rope_scaling`, and the older `rope_theta`.
    ///
    /// # Errors
    /// A text: the kind of scaling is not supported, or a parameter of it is missing.
    pub(super) fn parse(
        json: Option<&Value>,
        theta: Option<f64>,
        dim: i64,
    ) -> Result<Self, String> {
        let empty = Value::Null;
        let json = json.unwrap_or(&empty);
        let number = |name: &str| json.get(name).and_then(Value::as_f64);
        let kind = json.get("rope_type").or_else(|| json.get("type"));
        let stretch = match kind.and_then(Value::as_str).unwrap_or("default") {
            "default" | "mrope" => Stretch::Plain,
            "linear" => Stretch::Linear(number("factor").ok_or("rope scaling without factor")?),
            "yarn" => Stretch::Yarn(Yarn::parse(json)?),
            other => {
                return Err(format!(
                    "rope scaling {other:?} is not supported; default, linear, yarn and mrope are"
                ));
            }
        };
        if number("partial_rotary_factor").is_some_and(|factor| factor != 1.0) {
            return Err("partial_rotary_factor is not supported".to_owned());
        }
        let sections = match json.get("mrope_section") {
            None | Some(Value::Null) => None,
            Some(list) => {
                let list: Vec<i64> = serde_json::from_value(list.clone())
                    .map_err(|error| format!("mrope_section: {error}"))?;
                if list.len() != 3 || list.iter().sum::<i64>() != dim / 2 {
                    return Err(format!(
                        "mrope_section {list:?} does not fill {} pairs",
                        dim / 2
                    ));
                }
                Some(list)
            }
        };
        Ok(Self {
            theta: number("rope_theta").or(theta).unwrap_or(10_000.0),
            dim,
            stretch,
            sections,
        })
    }

    /// Positions of a token: 3 with sections, else 1.
    pub fn axes(&self) -> i64 {
        self.sections
            .as_ref()
            .map_or(1, |sections| sections.len() as i64)
    }

    /// Radians per position of every pair, and the factor of cosines and sines.
    fn frequencies(&self) -> (Vec<f32>, f64) {
        let pairs = self.dim / 2;
        let period = |pair: i64| self.theta.powf(2.0 * pair as f64 / self.dim as f64) as f32;
        let plain = (0..pairs).map(|pair| 1.0 / period(pair));
        match self.stretch {
            Stretch::Plain => (plain.collect(), 1.0),
            Stretch::Linear(factor) => (plain.map(|value| value / factor as f32).collect(), 1.0),
            Stretch::Yarn(yarn) => {
                let (low, high) = yarn.ramp(self.theta, self.dim);
                let blend = |(pair, value): (usize, f32)| {
                    let keep = 1.0 - ((pair as f32 - low) / (high - low)).clamp(0.0, 1.0);
                    value / yarn.factor as f32 * (1.0 - keep) + value * keep
                };
                (
                    plain.enumerate().map(blend).collect(),
                    yarn.attention_factor,
                )
            }
        }
    }
}

impl Yarn {
    fn parse(json: &Value) -> Result<Self, String> {
        let number = |name: &str| json.get(name).and_then(Value::as_f64);
        let need = |name: &str| number(name).ok_or(format!("yarn without {name}"));
        let factor = need("factor")?;
        let sharpness = |weight: f64| match factor > 1.0 {
            true => 0.1 * weight * factor.ln() + 1.0,
            false => 1.0,
        };
        let weight = |name: &str| number(name).filter(|value| *value != 0.0);
        let inferred = match (weight("mscale"), weight("mscale_all_dim")) {
            (Some(scale), Some(all)) => sharpness(scale) / sharpness(all),
            _ => sharpness(1.0),
        };
        Ok(Self {
            factor,
            original_length: need("original_max_position_embeddings")?,
            beta_fast: weight("beta_fast").unwrap_or(32.0),
            beta_slow: weight("beta_slow").unwrap_or(1.0),
            attention_factor: number("attention_factor").unwrap_or(inferred),
            truncate: json
                .get("truncate")
                .and_then(Value::as_bool)
                .unwrap_or(true),
        })
    }

    /// The pairs between which frequencies go over from kept to divided.
    fn ramp(&self, theta: f64, dim: i64) -> (f32, f32) {
        let dim = dim as f64;
        let pair_of = |turns: f64| {
            let length = self.original_length / (turns * std::f64::consts::TAU);
            dim * length.ln() / (2.0 * theta.ln())
        };
        let (mut low, mut high) = (pair_of(self.beta_fast), pair_of(self.beta_slow));
        if self.truncate {
            (low, high) = (low.floor(), high.ceil());
        }
        (low, high) = (low.max(0.0), high.min(dim - 1.0));
        if low == high {
            high += 0.001;
        }
        (low as f32, high as f32)
    }
}

/// Frequencies on a device, ready to make tables of.
#[derive(Debug)]
pub struct Rotary {
    /// f32 `[dim / 2]`.
    frequencies: Tensor,
    factor: f64,
    sections: Option<Vec<i64>>,
}

impl Rotary {
    /// Of a config, on `device`.
    pub fn new(config: &RotaryConfig, device: Device) -> Result<Self> {
        let (frequencies, factor) = config.frequencies();
        Ok(Self {
            frequencies: Tensor::f_from_slice(&frequencies)?.f_to_device(device)?,
            factor,
            sections: config.sections.clone(),
        })
    }

    /// The table of tokens at `positions`, i64 `[axes, batch, tokens]`; one axis will do for all.
    pub fn table(&self, positions: &Tensor) -> Result<HalfRotary> {
        let (axes, ..) = positions.size3()?;
        let wanted = self.sections.as_ref().map_or(1, Vec::len) as i64;
        if axes != wanted && axes != 1 {
            let reason = format!("{axes} positions a token, this model has {wanted}");
            return Err(ModelError::input("positions", reason));
        }
        let device = self.frequencies.device();
        let positions = positions.f_to_device(device)?.f_to_kind(Kind::Float)?;
        let angles = positions.f_unsqueeze(-1)?.f_mul(&self.frequencies)?;
        let angles = match &self.sections {
            Some(sections) if axes > 1 => {
                let mut first = 0;
                let mut parts = Vec::with_capacity(sections.len());
                for (axis, &pairs) in sections.iter().enumerate() {
                    let plane = angles.f_select(0, axis as i64)?;
                    parts.push(plane.f_narrow(-1, first, pairs)?);
                    first += pairs;
                }
                Tensor::f_cat(&parts, -1)?
            }
            _ => angles.f_select(0, 0)?,
        };
        HalfRotary::of_angles(&angles, self.factor)
    }
}

/// Cosines and sines of every token, f32 `[batch, tokens, dim / 2]`.
#[derive(Debug)]
pub struct HalfRotary {
    /// Cosines.
    pub cos: Tensor,
    /// Sines.
    pub sin: Tensor,
}

impl HalfRotary {
    /// Of angles `[batch, tokens, dim / 2]` in radians.
    pub fn of_angles(angles: &Tensor, factor: f64) -> Result<Self> {
        let scaled = |tensor: Tensor| -> Result<Tensor> {
            Ok(match factor == 1.0 {
                true => tensor.f_contiguous()?,
                false => tensor.f_mul_scalar(factor)?,
            })
        };
        Ok(Self {
            cos: scaled(angles.f_cos()?)?,
            sin: scaled(angles.f_sin()?)?,
        })
    }

    /// Rotates `[batch, tokens, heads, dim]`, channel `i` with channel `i + dim / 2`.
    pub fn rotate(&self, input: &Tensor) -> Result<Tensor> {
        let (_, _, _, dim) = input.size4()?;
        let (cos, sin) = (self.cos.f_unsqueeze(2)?, self.sin.f_unsqueeze(2)?);
        let low = input.f_narrow(-1, 0, dim / 2)?;
        let high = input.f_narrow(-1, dim / 2, dim / 2)?;
        let first = low.f_mul(&cos)?.f_sub(&high.f_mul(&sin)?)?;
        let second = high.f_mul(&cos)?.f_add(&low.f_mul(&sin)?)?;
        Ok(Tensor::f_cat(&[first, second], -1)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn config(json: Value) -> RotaryConfig {
        RotaryConfig::parse(Some(&json), Some(1e4), 8).unwrap()
    }

    #[test]
    fn both_spellings_are_read() {
        let new = config(json!({"rope_type": "linear", "factor": 2.0, "rope_theta": 5e5}));
        assert_eq!((new.theta, new.stretch), (5e5, Stretch::Linear(2.0)));
        let old = config(json!({"type": "linear", "factor": 2.0}));
        assert_eq!((old.theta, old.stretch), (1e4, Stretch::Linear(2.0)));
        let plain = RotaryConfig::parse(None, None, 8).unwrap();
        assert_eq!((plain.theta, plain.axes()), (1e4, 1));
        for bad in [
            json!({"rope_type": "yarn", "factor": 2.0}),
            json!({"rope_type": "llama3"}),
            json!({"mrope_section": [1, 1]}),
            json!({"partial_rotary_factor": 0.5}),
        ] {
            assert!(RotaryConfig::parse(Some(&bad), None, 8).is_err(), "{bad}");
        }
    }

    /// Equal positions on all axes are one position; different ones turn their own pairs only.
    #[test]
    fn sections_turn_with_their_axis() {
        let sections = json!({"rope_type": "default", "mrope_section": [1, 1, 2]});
        let many = Rotary::new(&config(sections), Device::Cpu).unwrap();
        let one = Rotary::new(&config(json!({})), Device::Cpu).unwrap();
        let same = Tensor::from_slice(&[5_i64, 5, 5]).view([3, 1, 1]);
        let plain = one
            .table(&Tensor::from_slice(&[5_i64]).view([1, 1, 1]))
            .unwrap();
        assert_eq!(many.table(&same).unwrap().cos, plain.cos);
        let other = Tensor::from_slice(&[5_i64, 7, 5]).view([3, 1, 1]);
        let turned = many.table(&other).unwrap();
        let differs = turned.cos.ne_tensor(&plain.cos).view([-1]);
        assert_eq!(
            Vec::<bool>::try_from(differs).unwrap(),
            [false, true, false, false]
        );
        assert!(one.table(&same).is_err());
    }

    /// Scores depend on differences of positions only.
    #[test]
    fn rotation_is_relative() {
        let rotary = Rotary::new(&config(json!({})), Device::Cpu).unwrap();
        let head = storyloom_nn::testing::cosines(&[1, 1, 1, 8], 0.3);
        let at = |position: i64| {
            let table = rotary
                .table(&Tensor::from_slice(&[position]).view([1, 1, 1]))
                .unwrap();
            table.rotate(&head).unwrap().view([8])
        };
        let near = at(3).dot(&at(7)).double_value(&[]);
        let far = at(103).dot(&at(107)).double_value(&[]);
        assert!(
            (near - far).abs() < 1e-5 && (near - at(3).dot(&at(8)).double_value(&[])).abs() > 1e-3
        );
    }
}
