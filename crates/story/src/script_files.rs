//! From a folder of scripts to a checked [`Manifest`].

use std::collections::BTreeMap;

use crate::ids::StoryId;
use crate::manifest::{Manifest, StoryEntry};
use crate::problem::{Findings, Problem};
use crate::script_reader::check_script;

/// Makes a manifest of script files, given as name and text; the id of a story comes of the name's
/// stem ([`StoryId::of_file`]). The stories are sorted by id.
///
/// With the manifest come warnings: ids that are not the names of their files, and JSON that other
/// programs do not read.
///
/// # Errors
/// All problems of the scripts, two files of the same stem, and no files at all (which is blamed on
/// `folder`).
pub fn manifest_from_scripts<'f>(
    folder: &str,
    scripts: impl IntoIterator<Item = (&'f str, &'f str)>,
) -> Result<(Manifest, Vec<Problem>), Vec<Problem>> {
    let mut found = Findings::default();
    let mut stories: BTreeMap<StoryId, StoryEntry> = BTreeMap::new();
    for (file, text) in scripts {
        let (entry, findings) = script_entry(file, text);
        found.problems.extend(findings.problems);
        found.warnings.extend(findings.warnings);
        let twin = entry.and_then(|entry| stories.insert(entry.id.clone(), entry));
        if let Some(twin) = twin {
            let message = format!("two scripts give a story the id {:?}", twin.id.as_str());
            let problem = whole_file(file, &message, "rename one of the files");
            found.problems.push(problem);
        }
    }
    if stories.is_empty() && found.problems.is_empty() {
        let help = "put story scripts with names ending in .json there";
        let problem = whole_file(folder, "there is no story script", help);
        found.problems.push(problem);
    }
    if found.problems.is_empty() {
        let stories = stories.into_values().collect();
        Ok((Manifest { stories }, found.warnings))
    } else {
        Err(found.problems)
    }
}

fn script_entry(file: &str, text: &str) -> (Option<StoryEntry>, Findings) {
    let name = file.rsplit(['/', '\\']).next().unwrap_or(file);
    let stem = name.rsplit_once('.').map_or(name, |(stem, _)| stem);
    let (script, mut findings) = check_script(file, text);
    let id = StoryId::of_file(stem);
    if id.as_str() != stem {
        let message = format!("the name of the file is no id, so the story is called {id}");
        let help = "rename the file to choose the id: letters, digits, '.', '_' and '-'";
        findings.warnings.push(whole_file(file, &message, help));
    }
    (script.map(|script| StoryEntry::new(id, script)), findings)
}

/// A problem of a file rather than of a place in it.
fn whole_file(file: &str, message: &str, help: &str) -> Problem {
    Problem {
        file: file.to_owned(),
        line: 1,
        column: 1,
        message: message.to_owned(),
        help: help.to_owned(),
        span: (0, 1),
    }
}
