//! Where the chat template of a model is.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;

use storyloom_nn::checkpoint::read_json;
use storyloom_nn::error::{ModelError, Result};

/// A template as it was found.
pub(super) struct Source {
    /// The file that has it.
    pub(super) path: PathBuf,
    /// The template.
    pub(super) text: String,
    /// `bos_token` and the like.
    pub(super) tokens: BTreeMap<String, String>,
}

impl Source {
    /// The template of a folder: a file of its own goes before those that are inside another.
    pub(super) fn find(folder: &Path) -> Result<Option<Self>> {
        let config_path = folder.join("tokenizer_config.json");
        let config = match config_path.exists() {
            true => read_json(&config_path)?,
            false => Value::Null,
        };
        let found = |path: PathBuf, text: String| Self {
            path,
            text,
            tokens: special_tokens(&config),
        };
        let path = folder.join("chat_template.jinja");
        if path.exists() {
            let text = std::fs::read_to_string(&path);
            let text = text.map_err(|error| ModelError::io(&path, error))?;
            return Ok(Some(found(path, text)));
        }
        if let Some(text) = in_config(&config, &config_path)? {
            return Ok(Some(found(config_path, text)));
        }
        let path = folder.join("chat_template.json");
        if !path.exists() {
            return Ok(None);
        }
        match in_config(&read_json(&path)?, &path)? {
            Some(text) => Ok(Some(found(path, text))),
            None => Err(ModelError::bad_file(&path, "no chat_template in it")),
        }
    }
}

/// The template in a JSON file: a text, or several with names, of which `default` counts.
pub(super) fn in_config(config: &Value, path: &Path) -> Result<Option<String>> {
    let entries: Vec<(&str, &Value)> = match config.get("chat_template") {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::String(text)) => return Ok(Some(text.clone())),
        Some(Value::Object(named)) => named.iter().map(|(name, text)| (&**name, text)).collect(),
        Some(Value::Array(list)) => list
            .iter()
            .filter_map(|entry| Some((entry.get("name")?.as_str()?, entry.get("template")?)))
            .collect(),
        Some(_) => Vec::new(),
    };
    let default = entries.iter().find(|(name, _)| *name == "default");
    if let Some(text) = default.and_then(|(_, text)| text.as_str()) {
        return Ok(Some(text.to_owned()));
    }
    let names: Vec<&str> = entries.iter().map(|(name, _)| *name).collect();
    let reason = match names.as_slice() {
        [] => "chat_template is neither a text nor a list of named templates".to_owned(),
        names => format!(
            "no chat template is called \"default\", only {}; rename the one to be used, or put it \
             into chat_template.jinja",
            names.join(", ")
        ),
    };
    Err(ModelError::bad_file(path, reason))
}

/// Every `…_token` of a tokenizer's config, which is a text or an object with one.
pub(super) fn special_tokens(config: &Value) -> BTreeMap<String, String> {
    let entries = config.as_object().into_iter().flatten();
    let token = |(name, value): (&String, &Value)| {
        let text = value.as_str().or_else(|| value.get("content")?.as_str())?;
        name.ends_with("_token")
            .then(|| (name.clone(), text.to_owned()))
    };
    entries.filter_map(token).collect()
}
