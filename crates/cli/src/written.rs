//! Manifests that commands write.

use std::path::Path;

use storyloom_memory::{Disk, Storage};
use storyloom_pictures::{InputFolder, Limits};
use storyloom_story::{StoryEntry, onestory_line};

use crate::exit::{Exit, Failure};

/// What a manifest is made of, `what` the user gave, must not be written over.
///
/// # Errors
/// `out` is the file that was given.
pub fn refuse_own_input(what: &str, given: &Path, out: &Path) -> Result<(), Failure> {
    if matches!((given.canonicalize(), out.canonicalize()), (Ok(given), Ok(out)) if given == out) {
        let message = format!("--out is the file of {what}; give the manifest another name");
        return Err(Failure::new(Exit::Usage, message));
    }
    Ok(())
}

/// Writes a manifest whole, or not at all.
///
/// # Errors
/// The storage fails.
pub fn write(out: &Path, text: &str) -> Result<(), Failure> {
    Disk.write(out, text.as_bytes())
        .map_err(|error| Failure::new(Exit::Storage, error))
}

/// A story as a line of the manifest `out`; its pictures count from `folder`.
/// One that says more than a script of scenes can is a story script of OneStory.
///
/// # Errors
/// A picture cannot be copied, or the story has no form.
pub fn line(story: StoryEntry, folder: &InputFolder, out: &Path) -> Result<String, Failure> {
    let story = moved(story, folder, out)?;
    match story.notes {
        Some(_) => onestory(&story),
        None => {
            serde_json::to_string(&story).map_err(|error| Failure::new(Exit::Unexpected, error))
        }
    }
}

/// A story as a story script of OneStory.
///
/// # Errors
/// It has no such form.
pub fn onestory(story: &StoryEntry) -> Result<String, Failure> {
    onestory_line(story).map_err(|wrong| {
        let message = format!("{wrong}; {}", wrong.help());
        Failure::new(Exit::Input, message)
    })
}

/// A story whose pictures and ready-made first shot, which count from `folder`, count from the folder of `out`.
///
/// # Errors
/// One of them cannot be copied.
pub fn moved(
    mut story: StoryEntry,
    folder: &InputFolder,
    out: &Path,
) -> Result<StoryEntry, Failure> {
    let files = story
        .reference_images
        .iter_mut()
        .chain(&mut story.first_shot);
    for (file, number) in files.zip(1..) {
        let copy = format!("{}-{number}", story.id);
        *file = seen_from(out, folder, file, &copy)?;
    }
    Ok(story)
}

/// The path of `file`, which counts from `folder`, counted from the folder of `out`. A manifest names
/// files in its folder and below only: one that lies elsewhere is copied beside it under the name
/// `copy`.
fn seen_from(out: &Path, folder: &InputFolder, file: &str, copy: &str) -> Result<String, Failure> {
    let home = InputFolder::new(out.parent().unwrap_or(Path::new("")));
    let found = (folder.resolve(file), home.path().canonicalize());
    let (Ok(source), Ok(below)) = found else {
        return Ok(file.to_owned());
    };
    if home.resolve(file).is_ok_and(|same| same == source) {
        return Ok(file.to_owned());
    }
    if let Some(path) = source.strip_prefix(&below).ok().and_then(Path::to_str) {
        return Ok(path.to_owned());
    }
    let bytes = folder.read(file, Limits::default().bytes);
    let bytes = bytes.map_err(|problem| {
        let message = format!("the file {file:?} cannot be used: {problem}");
        Failure::new(Exit::Input, message)
    })?;
    let ending = source.extension().and_then(|ending| ending.to_str());
    let ending = ending.map_or_else(String::new, |ending| format!(".{ending}"));
    let name = out.file_name().unwrap_or_default().to_string_lossy();
    let path = format!("{name}.pictures/{copy}{ending}");
    Disk.write(&home.path().join(&path), &bytes)
        .map_err(|error| Failure::new(Exit::Storage, error))?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_are_found_from_the_manifest() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path().canonicalize().unwrap();
        std::fs::create_dir_all(root.join("in/img")).unwrap();
        std::fs::create_dir_all(root.join("out")).unwrap();
        std::fs::write(root.join("in/img/a.png"), "a picture").unwrap();
        let folder = InputFolder::new(root.join("in"));
        let seen = |out: &str| seen_from(&root.join(out), &folder, "img/a.png", "ad-1").unwrap();
        assert_eq!(seen("in/m.jsonl"), "img/a.png");
        assert_eq!(seen("m.jsonl"), "in/img/a.png");
        // A manifest may not name what lies elsewhere.
        assert_eq!(seen("out/m.jsonl"), "m.jsonl.pictures/ad-1.png");
        let home = InputFolder::new(root.join("out"));
        let copy = home.read("m.jsonl.pictures/ad-1.png", 100).unwrap();
        assert_eq!(copy, b"a picture");
    }
}
