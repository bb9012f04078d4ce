//! From a folder of scripts to a checked [`Manifest`].

use std::collections::BTreeMap;

use crate::ids::{GIVE_ANOTHER_ID, StoryId, differ_in_case};
use crate::manifest::{LeftOut, Manifest, StoryEntry};
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
    let scripts = scripts.into_iter().map(|(file, text)| (file, Ok(text)));
    let (manifest, found) = read_scripts(folder, scripts, false);
    match found.problems.is_empty() {
        true => Ok((manifest, found.warnings)),
        false => Err(found.problems),
    }
}

/// As [`manifest_from_scripts`], with why a text cannot be read where it cannot: the stories that are
/// right, and what was found. Where stories `may_lack_scripts`, one whose script is broken or cannot be
/// read is [left out](Findings::left_out), and no problem.
pub fn read_scripts<'f>(
    folder: &str,
    scripts: impl IntoIterator<Item = (&'f str, Result<&'f str, String>)>,
    may_lack_scripts: bool,
) -> (Manifest, Findings) {
    let mut found = Findings::default();
    let mut stories: BTreeMap<StoryId, Result<StoryEntry, String>> = BTreeMap::new();
    for (file, text) in scripts {
        let id = id_of(file);
        let (entry, findings) = match text {
            Ok(text) => script_entry(file, &id, text),
            Err(reason) => {
                let help = "write a story script into it that can be read";
                let problems = vec![whole_file(file, &reason, help)];
                let findings = Findings {
                    problems,
                    ..Findings::default()
                };
                (None, findings)
            }
        };
        found.warnings.extend(findings.warnings);
        let first = findings.problems.first();
        let broken = first.map(|problem| format!("its script is broken: {problem}"));
        if !may_lack_scripts {
            found.problems.extend(findings.problems);
        }
        let story = match (entry, broken) {
            (Some(entry), _) => Ok(entry),
            (None, Some(broken)) if may_lack_scripts => Err(broken),
            (None, _) => continue,
        };
        if stories.insert(id.clone(), story).is_some() {
            let message = format!("two scripts give a story the id {:?}", id.as_str());
            let problem = whole_file(file, &message, "rename one of the files");
            found.problems.push(problem);
        }
    }
    if stories.is_empty() && found.problems.is_empty() {
        let help = "put story scripts with names ending in .json there";
        let problem = whole_file(folder, "there is no story script", help);
        found.problems.push(problem);
    }
    let mut folded: BTreeMap<String, &StoryId> = BTreeMap::new();
    for story in stories.keys() {
        if let Some(other) = folded.insert(story.folded(), story) {
            let message = differ_in_case(story, other, "");
            found
                .warnings
                .push(whole_file(folder, &message, GIVE_ANOTHER_ID));
        }
    }
    let mut manifest = Manifest::default();
    for (position, (story, entry)) in stories.into_iter().enumerate() {
        match entry {
            Ok(entry) => manifest.stories.push(entry),
            Err(reason) => found.left_out.push(LeftOut {
                story,
                reason,
                position,
            }),
        }
    }
    (manifest, found)
}

/// The part of a file's name that a story is called by.
fn stem(file: &str) -> &str {
    let name = file.rsplit(['/', '\\']).next().unwrap_or(file);
    name.rsplit_once('.').map_or(name, |(stem, _)| stem)
}

fn id_of(file: &str) -> StoryId {
    StoryId::of_file(stem(file))
}

fn script_entry(file: &str, id: &StoryId, text: &str) -> (Option<StoryEntry>, Findings) {
    let (script, mut findings) = check_script(file, text);
    if id.as_str() != stem(file) {
        let message = format!("the name of the file is no id, so the story is called {id}");
        let help = "rename the file to choose the id: letters, digits, '.', '_' and '-'";
        findings.warnings.push(whole_file(file, &message, help));
    }
    (
        script.map(|script| StoryEntry::new(id.clone(), script)),
        findings,
    )
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
