//! The reference of all options, made from their definitions.

use std::fmt::Write as _;

use super::limit::Limit;
use super::options::Config;

/// The text of `docs/config.md`.
pub fn markdown() -> String {
    let mut text = String::from(
        "# Settings\n\n\
         Made from the definitions in `crates/cli/src/config/options.rs` by `storyloom config`; a test \
         compares the two.\n\n\
         Later layers win: defaults < the file given with `--config` < environment variables < \
         `--set key=value`.\nThe variable of `video.width` is `STORYLOOM_VIDEO_WIDTH`. Unknown keys \
         are errors (exit code 78).\nOf variables only those are that are a few letters from one \
         of ours; others get a warning, and those\nthat Kubernetes makes for services \
         (`STORYLOOM_PORT=tcp://…`) not even that. A former key works wherever the present one does.\n\n\
         A relative path in a config file counts from the folder of that file, one of `--set` or of the \
         environment from the current\nfolder. What is found only from the current folder is taken \
         from there, with a warning.\n\n\
         | key | value | default | meaning |\n|---|---|---|---|\n",
    );
    let mut defaults = Config::default();
    for info in Config::options() {
        let Some(option) = defaults.option(&info.key) else {
            continue;
        };
        let doc: Vec<_> = info.doc.iter().map(|line| line.trim()).collect();
        // Writing to a text cannot fail.
        let _ = writeln!(
            text,
            "| `{}` | {} | `{}` | {} |",
            info.key,
            match info.limit {
                // A text can hold any seed.
                Some(Limit::Numbers(bounds)) if info.key != "run.seed" =>
                    format!("{}: {bounds}", option.describe()),
                _ => option.describe(),
            },
            option.to_toml(),
            doc.join(" ")
                + &info
                    .former
                    .map_or(String::new(), |former| format!(" Formerly `{former}`."))
        );
    }
    text
}

impl Config {
    /// The settings as a config file that would give them.
    pub fn to_toml(&self) -> String {
        toml::to_string(&self.table()).unwrap_or_default()
    }

    /// The settings as nested JSON, for the record of a run.
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::to_value(self.table()).unwrap_or_default()
    }

    fn table(&self) -> toml::Table {
        let mut copy = self.clone();
        let mut table = toml::Table::new();
        for info in Self::options() {
            let Some(value) = copy.option(&info.key).map(|option| option.to_toml()) else {
                continue;
            };
            match info.key.split_once('.') {
                None => drop(table.insert(info.key, value)),
                Some((group, name)) => {
                    let group = table
                        .entry(group)
                        .or_insert_with(|| toml::Value::Table(toml::Table::new()));
                    if let toml::Value::Table(group) = group {
                        group.insert(name.to_owned(), value);
                    }
                }
            }
        }
        table
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::load;

    const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

    #[test]
    fn the_reference_in_docs_is_the_one_of_the_code() {
        let path = format!("{ROOT}/docs/config.md");
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        if std::env::var_os("UPDATE_EXPECT").is_some() {
            std::fs::write(&path, markdown()).unwrap();
        } else {
            assert_eq!(text, markdown(), "run this test with UPDATE_EXPECT=1");
        }
    }

    #[test]
    fn resolved_settings_give_themselves() {
        let sets = ["storymem.shift.t2v=3".to_owned(), "run.seed=7".to_owned()];
        let config = load(None, [], &sets).unwrap();
        let again = load(Some(("c", &config.to_toml())), [], &[]).unwrap();
        assert_eq!(config, again);
        assert_eq!(config.to_json()["run"]["seed"], 7);
    }

    #[test]
    fn every_shipped_config_loads() {
        let mut count = 0;
        for entry in std::fs::read_dir(format!("{ROOT}/configs")).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap();
            let name = path.display().to_string();
            load(Some((&name, &text)), [], &[]).unwrap_or_else(|problems| panic!("{problems:?}"));
            count += 1;
        }
        assert!(count >= 3, "only {count} configs");
    }
}
