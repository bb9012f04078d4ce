//! How strongly an adapter is applied, and who says so.
//!
//! A plain LoRA is scaled by `alpha / rank`, a rank-stabilised one by `alpha / sqrt(rank)`. Neither
//! can be seen from the two factors, and a wrong scale changes every film without an error. So what
//! the files say decides, and a setting that contradicts them is refused.

use std::collections::HashMap;
use std::path::Path;

use regex::Regex;
use serde_json::Value;

use super::names::{Form, Halves, Network};
use crate::checkpoint::read_json;
use crate::error::{ModelError, Result};

/// File that peft writes beside the tensors.
const ADAPTER_CONFIG: &str = "adapter_config.json";
/// Entry of a header that diffusers writes, with the content of peft's file.
const DIFFUSERS_METADATA: &str = "lora_adapter_metadata";
/// Entry of a header that kohya's trainers write.
const KOHYA_ALPHA: &str = "ss_network_alpha";
/// Entries of a header with a plain number.
const PLAIN_ALPHAS: [&str; 2] = ["lora_alpha", "alpha"];

/// Which scale is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LoraScaling {
    /// What the files say; else `alpha / rank`, or `alpha / sqrt(rank)` for files that look like
    /// those of StoryMem.
    #[default]
    Files,
    /// `alpha / rank`.
    Plain,
    /// `alpha / sqrt(rank)`.
    RankStabilised,
}

/// What is said about an adapter beside the tensors of its layers.
#[derive(Debug, Default)]
pub(super) struct Declaration {
    /// Where it is said.
    source: String,
    alpha: Option<f64>,
    rank: Option<i64>,
    rank_stabilised: bool,
    alpha_of: Patterns<f64>,
    rank_of: Patterns<i64>,
}

/// Values for layers whose names match.
#[derive(Debug)]
struct Patterns<T>(Vec<(Regex, T)>);

impl<T> Default for Patterns<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T: Copy> Patterns<T> {
    /// The value for a layer: that of the first pattern that its name ends with.
    fn of(&self, layer: &str) -> Option<T> {
        let found = self.0.iter().find(|(pattern, _)| pattern.is_match(layer));
        found.map(|(_, value)| *value)
    }
}

/// The scale of one layer and where it comes from.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Scale {
    /// The factor.
    pub(super) value: f64,
    /// How it was computed, for the log.
    pub(super) reason: String,
}

/// What is known of a layer and of its file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Layer<'a> {
    pub(super) file: &'a Path,
    /// As the file calls it.
    pub(super) written: &'a str,
    pub(super) rank: i64,
    /// Its own alpha tensor.
    pub(super) alpha: Option<f64>,
    pub(super) form: Form,
    /// What the file is for, if its names say it.
    pub(super) network: Option<Network>,
}

/// An alpha, and who says it.
struct Alpha<'a> {
    value: f64,
    source: &'a str,
    is_said_by_files: bool,
}

impl Declaration {
    /// Reads what stands beside the tensors of `file`: peft's config, else the file's header.
    ///
    /// # Errors
    /// The config cannot be read, or is of an adapter that is not a LoRA.
    pub(super) fn read(
        file: &Path,
        header: &HashMap<String, String>,
        halves: Option<Halves>,
        form: Form,
    ) -> Result<Self> {
        let config = file.with_file_name(ADAPTER_CONFIG);
        if config.exists() {
            let content = read_json(&config)?;
            return Self::of_peft(&content, ADAPTER_CONFIG)
                .map_err(|reason| ModelError::bad_file(config, reason));
        }
        let bad = |reason: String| ModelError::bad_file(file, reason);
        if let Some(text) = header.get(DIFFUSERS_METADATA) {
            let content = serde_json::from_str(text)
                .map_err(|error| bad(format!("{DIFFUSERS_METADATA} of its header: {error}")))?;
            let source = format!("{DIFFUSERS_METADATA} of the header");
            return Self::of_peft(&without_prefix(content), &source).map_err(bad);
        }
        let number = |key: &str| {
            let text = header.get(key).map(|text| text.trim());
            // kohya writes "None" where nobody chose one.
            let text = text.filter(|text| !text.is_empty() && *text != "None");
            let parsed = text.map(|text| text.parse::<f64>());
            parsed
                .transpose()
                .map_err(|_| bad(format!("{key} of its header is not a number")))
        };
        for key in PLAIN_ALPHAS {
            if let Some(alpha) = number(key)? {
                let stabilised = header.get("use_rslora").is_some_and(|text| is_true(text));
                return Ok(Self::plain(alpha, stabilised, key));
            }
        }
        let Some(alpha) = number(KOHYA_ALPHA)? else {
            return Ok(Self::default());
        };
        // kohya's own converter multiplies the scale into `lora_A` and `lora_B`, drops the alpha
        // tensors and keeps the header of the file it read.
        if halves == Some(Halves::Letters) && form != Form::Peft {
            tracing::warn!(
                file = %file.display(),
                "{KOHYA_ALPHA} = {alpha} of the header is left aside: kohya's converter has \
                 multiplied it into lora_A and lora_B already; set lora.alpha if this file is \
                 otherwise"
            );
            return Ok(Self::default());
        }
        Ok(Self::plain(alpha, false, KOHYA_ALPHA))
    }

    fn plain(alpha: f64, rank_stabilised: bool, key: &str) -> Self {
        Self {
            source: format!("{key} of the header"),
            alpha: Some(alpha),
            rank_stabilised,
            ..Self::default()
        }
    }

    fn of_peft(content: &Value, source: &str) -> Result<Self, String> {
        let kind = content.get("peft_type").and_then(Value::as_str);
        if let Some(kind) = kind.filter(|kind| *kind != "LORA") {
            return Err(format!(
                "{source}: an adapter of the type {kind} is not a LoRA"
            ));
        }
        let is_set = |key: &str| content.get(key).and_then(Value::as_bool) == Some(true);
        for (key, kind) in [("use_dora", "DoRA"), ("use_qalora", "QALoRA")] {
            if is_set(key) {
                return Err(format!(
                    "{source}: {kind} is not a LoRA, and is not applied here"
                ));
            }
        }
        let patterns = |key: &str| content.get(key).and_then(Value::as_object);
        Ok(Self {
            source: source.to_owned(),
            alpha: content.get("lora_alpha").and_then(Value::as_f64),
            rank: content.get("r").and_then(Value::as_i64),
            rank_stabilised: is_set("use_rslora"),
            alpha_of: compile(patterns("alpha_pattern"), Value::as_f64, source)?,
            rank_of: compile(patterns("rank_pattern"), Value::as_i64, source)?,
        })
    }

    /// The scale of a layer, by the files and the settings.
    ///
    /// # Errors
    /// What the files say contradicts the tensors or the settings.
    pub(super) fn scale(
        &self,
        layer: Layer,
        setting: Option<f64>,
        scaling: LoraScaling,
    ) -> Result<Scale> {
        self.check_rank(layer)?;
        let bad = |reason: String| ModelError::bad_file(layer.file, reason);
        let rank = layer.rank as f64;
        let said = self.alpha_by_files(layer);
        let alpha = match (said, setting) {
            (Some(said), Some(setting)) if !same(said.value, setting) => {
                if scaling == LoraScaling::Files {
                    return Err(bad(contradiction(&said, setting, layer)));
                }
                by_setting(setting)
            }
            (Some(said), _) => said,
            (None, Some(setting)) => by_setting(setting),
            (None, None) => Alpha {
                value: rank,
                source: "the rank, since no file and no setting says it",
                is_said_by_files: false,
            },
        };
        let stabilised = match scaling {
            LoraScaling::Plain => false,
            LoraScaling::RankStabilised => true,
            // An alpha tensor is kohya's, whose scale is plain.
            LoraScaling::Files if layer.alpha.is_some() => false,
            LoraScaling::Files if alpha.is_said_by_files => self.rank_stabilised,
            LoraScaling::Files => self.rank_stabilised || self.is_like_storymem(layer),
        };
        let (value, divisor) = match stabilised {
            true => (alpha.value / rank.sqrt(), format!("sqrt({rank})")),
            false => (alpha.value / rank, format!("{rank}")),
        };
        if !value.is_finite() {
            return Err(bad(format!(
                "the alpha of {} is not a number",
                layer.written
            )));
        }
        let rule = match stabilised && self.source.is_empty() && scaling == LoraScaling::Files {
            true => ", rank-stabilised as StoryMem's files, which it looks like",
            false => "",
        };
        Ok(Scale {
            value,
            reason: format!(
                "alpha {} / {divisor}; alpha from {}{rule}",
                alpha.value, alpha.source
            ),
        })
    }

    /// The files of StoryMem are in peft's names, for Wan, and nothing in or beside them says an alpha.
    fn is_like_storymem(&self, layer: Layer) -> bool {
        let is_flux = layer.network == Some(Network::Flux);
        layer.form == Form::Peft && !is_flux && self.source.is_empty()
    }

    fn alpha_by_files(&self, layer: Layer) -> Option<Alpha<'_>> {
        let (value, source) = match layer.alpha {
            Some(alpha) => (alpha, "the alpha tensors of the file"),
            None => {
                let alpha = self.alpha_of.of(layer.written).or(self.alpha);
                (alpha?, self.source.as_str())
            }
        };
        Some(Alpha {
            value,
            source,
            is_said_by_files: true,
        })
    }

    /// A config of another adapter would give a wrong scale.
    fn check_rank(&self, layer: Layer) -> Result<()> {
        let said = self.rank_of.of(layer.written).or(self.rank);
        match said.filter(|&said| said != layer.rank) {
            None => Ok(()),
            Some(said) => Err(ModelError::bad_file(
                layer.file,
                format!(
                    "{} has rank {}, but {} says {said}; is that of another adapter?",
                    layer.written, layer.rank, self.source
                ),
            )),
        }
    }
}

fn by_setting(value: f64) -> Alpha<'static> {
    Alpha {
        value,
        source: "the setting lora.alpha",
        is_said_by_files: false,
    }
}

fn contradiction(said: &Alpha, setting: f64, layer: Layer) -> String {
    format!(
        "lora.alpha is {setting}, but the alpha of {} is {} by {}; set lora.alpha = 0 to follow the \
         file, or also lora.scaling to \"plain\" or \"rank-stabilised\" to overrule it",
        layer.written, said.value, said.source
    )
}

fn same(a: f64, b: f64) -> bool {
    // Alpha tensors may be of 16 bits.
    (a - b).abs() <= 1e-2 * a.abs().max(b.abs())
}

fn is_true(text: &str) -> bool {
    text.eq_ignore_ascii_case("true") || text == "1"
}

/// diffusers puts the name of the component before every key.
fn without_prefix(content: Value) -> Value {
    let Value::Object(entries) = content else {
        return content;
    };
    let plain = |key: String| match key.strip_prefix("transformer.") {
        Some(rest) => rest.to_owned(),
        None => key,
    };
    Value::Object(
        entries
            .into_iter()
            .map(|(key, value)| (plain(key), value))
            .collect(),
    )
}

/// peft takes the keys for regular expressions that the end of a layer's name must match.
fn compile<T>(
    entries: Option<&serde_json::Map<String, Value>>,
    value_of: impl Fn(&Value) -> Option<T>,
    source: &str,
) -> Result<Patterns<T>, String> {
    let compiled = entries.into_iter().flatten().map(|(key, value)| {
        let pattern = Regex::new(&format!(r"^(?:.*\.)?(?:{key})$"))
            .map_err(|_| format!("{source}: {key:?} is not a pattern that can be read"))?;
        let value = value_of(value).ok_or_else(|| format!("{source}: {key:?} has no number"))?;
        Ok((pattern, value))
    });
    compiled.collect::<Result<_, String>>().map(Patterns)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(form: Form, alpha: Option<f64>) -> Layer<'static> {
        Layer {
            file: Path::new("x.safetensors"),
            written: "blocks.0.self_attn.q",
            rank: 16,
            alpha,
            form,
            network: Some(Network::Wan),
        }
    }

    fn header(entries: &[(&str, &str)]) -> HashMap<String, String> {
        let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        entries.iter().map(owned).collect()
    }

    fn declared(entries: &[(&str, &str)], halves: Halves, form: Form) -> Declaration {
        let file = Path::new("nowhere/x.safetensors");
        Declaration::read(file, &header(entries), Some(halves), form).unwrap()
    }

    fn value(declaration: &Declaration, layer: Layer) -> f64 {
        declaration
            .scale(layer, None, LoraScaling::Files)
            .unwrap()
            .value
    }

    #[test]
    fn nothing_said_is_one_but_for_files_like_those_of_storymem() {
        let nothing = Declaration::default();
        for (form, wanted) in [
            (Form::Peft, 4.0),
            (Form::ComfyUi, 1.0),
            (Form::Diffusers, 1.0),
            (Form::Kohya, 1.0),
            (Form::Bare, 1.0),
        ] {
            assert_eq!(value(&nothing, layer(form, None)), wanted, "{form:?}");
        }
        // The setting is a numerator in the same rules.
        let with = |form| {
            nothing
                .scale(layer(form, None), Some(8.0), LoraScaling::Files)
                .unwrap()
        };
        assert_eq!((with(Form::Peft).value, with(Form::Bare).value), (2.0, 0.5));
    }

    /// Specification `flux`, entry `lora` of the vectors: rank, alpha, whether rank-stabilised, scale.
    #[test]
    fn scales_of_flux_come_from_the_layout() {
        for (rank, alpha, stabilised, wanted) in [
            (3, None, false, 1.0),
            (2, None, false, 1.0),
            (3, Some(6.0), false, 2.0),
            (2, Some(4.0), false, 2.0),
            (2, Some(8.0), true, 5.656_854_25),
            (3, Some(8.0), true, 4.618_802_15),
        ] {
            let of = |alpha| Layer {
                rank,
                alpha,
                written: "transformer_blocks.0.attn.to_q",
                network: Some(Network::Flux),
                ..layer(Form::Peft, None)
            };
            let declaration = match alpha {
                None => Declaration::default(),
                Some(alpha) => {
                    let text = serde_json::json!({
                        "transformer.r": rank, "transformer.lora_alpha": alpha,
                        "transformer.use_rslora": stabilised,
                    });
                    let entries = [(DIFFUSERS_METADATA, text.to_string())];
                    let entries = entries.each_ref().map(|(key, text)| (*key, text.as_str()));
                    declared(&entries, Halves::Letters, Form::Diffusers)
                }
            };
            let found = value(&declaration, of(None));
            assert!((found - wanted).abs() < 1e-7, "{found} {wanted}");
            // An alpha tensor is plain.
            if !stabilised {
                let found = value(&Declaration::default(), of(alpha));
                assert_eq!(found, wanted);
            }
        }
    }

    #[test]
    fn what_files_say_decides() {
        let peft = |text: &str| {
            Declaration::of_peft(&serde_json::from_str(text).unwrap(), ADAPTER_CONFIG).unwrap()
        };
        let plain = peft(r#"{"peft_type": "LORA", "r": 16, "lora_alpha": 8, "use_rslora": false}"#);
        assert_eq!(value(&plain, layer(Form::Peft, None)), 0.5);
        let stabilised = peft(r#"{"r": 16, "lora_alpha": 8, "use_rslora": true}"#);
        assert_eq!(value(&stabilised, layer(Form::Peft, None)), 2.0);
        let patterns = peft(
            r#"{"r": 4, "lora_alpha": 8, "alpha_pattern": {"self_attn\\.[qk]": 32, "ffn.0": 1},
                "rank_pattern": {"self_attn.q": 16}}"#,
        );
        assert_eq!(value(&patterns, layer(Form::Peft, None)), 2.0);
        // An alpha tensor of the layer says more than anything else, and is never stabilised.
        assert_eq!(value(&stabilised, layer(Form::Peft, Some(4.0))), 0.25);
    }

    #[test]
    fn headers_are_read() {
        let text = r#"{"transformer.r": 16, "transformer.lora_alpha": 8,
                       "transformer.use_rslora": true}"#;
        let diffusers = declared(
            &[(DIFFUSERS_METADATA, text)],
            Halves::Letters,
            Form::Diffusers,
        );
        assert_eq!(value(&diffusers, layer(Form::Diffusers, None)), 2.0);
        let alpha = declared(&[("lora_alpha", "8")], Halves::Letters, Form::Peft);
        assert_eq!(value(&alpha, layer(Form::Peft, None)), 0.5);
        let kohya = declared(&[(KOHYA_ALPHA, "8.0")], Halves::Words, Form::Kohya);
        assert_eq!(value(&kohya, layer(Form::Kohya, None)), 0.5);
        let none = declared(&[(KOHYA_ALPHA, "None")], Halves::Words, Form::Kohya);
        assert_eq!(value(&none, layer(Form::Kohya, None)), 1.0);
        // Converted by kohya's own program: the scale is in the tensors already.
        let converted = declared(&[(KOHYA_ALPHA, "8.0")], Halves::Letters, Form::ComfyUi);
        assert_eq!(value(&converted, layer(Form::ComfyUi, None)), 1.0);
    }

    #[test]
    fn contradictions_are_refused_and_can_be_overruled() {
        let kohya = declared(&[(KOHYA_ALPHA, "8.0")], Halves::Words, Form::Kohya);
        let ask = |setting, scaling| kohya.scale(layer(Form::Kohya, None), Some(setting), scaling);
        let error = ask(128.0, LoraScaling::Files).unwrap_err().to_string();
        assert!(
            error.contains("lora.alpha is 128") && error.contains("8 by ss_"),
            "{error}"
        );
        assert_eq!(ask(8.0, LoraScaling::Files).unwrap().value, 0.5);
        assert_eq!(ask(128.0, LoraScaling::Plain).unwrap().value, 8.0);
        assert_eq!(ask(128.0, LoraScaling::RankStabilised).unwrap().value, 32.0);
    }

    #[test]
    fn configs_of_other_adapters_are_refused() {
        let of = |text: &str| Declaration::of_peft(&serde_json::from_str(text).unwrap(), "c");
        assert!(of(r#"{"peft_type": "LOHA"}"#).unwrap_err().contains("LOHA"));
        assert!(of(r#"{"use_dora": true}"#).unwrap_err().contains("DoRA"));
        assert!(
            of(r#"{"alpha_pattern": {"(": 1}}"#)
                .unwrap_err()
                .contains("pattern")
        );
        assert!(
            of(r#"{"alpha_pattern": {"a": "b"}}"#)
                .unwrap_err()
                .contains("number")
        );
        let other_rank = of(r#"{"r": 8, "lora_alpha": 8}"#).unwrap();
        let error = other_rank.scale(layer(Form::Peft, None), None, LoraScaling::Files);
        assert!(
            error
                .unwrap_err()
                .to_string()
                .contains("has rank 16, but c says 8")
        );
    }
}
