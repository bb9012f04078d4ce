//! Whether the storage of a run folder can hold one, tried before anything is paid for.

use std::collections::BTreeMap;
use std::path::Path;

use storyloom_memory::Disk;
use storyloom_memory::probe::{Footing, Unfit, nearest_folder, probe};
use storyloom_story::{Line, StoryId};

use crate::exit::{Exit, Failure};
use crate::input::Input;

/// What to do about storage that cannot hold a run folder.
pub const ELSEWHERE: &str = "take a folder on a local disk, NFS, Lustre or another file system with hard links, or with \
                             renameat2 and RENAME_NOREPLACE; `storyloom doctor --out DIR` tries one";

/// What to do where programs cannot lock files.
pub const LOCAL_INDEX: &str = "set memory.path to a folder on a local disk";

/// Tries the storage of the run folder `out` for the stories of `input`.
///
/// # Errors
/// It cannot do what a run needs, or would take two of the stories for one. What only a full disk or a
/// lost server explains is left to the code that writes there first.
pub fn check(out: &Path, input: &Input, has_own_index: bool) -> Result<(), Failure> {
    let refuse = |reason: String| Failure::new(Exit::Storage, reason);
    match probe(&Disk, &nearest_folder(out)) {
        Err(unfit) if unfit.is_lasting() => Err(refuse(told(out, &unfit))),
        Err(unfit) => {
            tracing::debug!("the storage of {} was not tried: {unfit}", out.display());
            Ok(())
        }
        Ok(Footing { folds_case, locks }) => {
            if !locks && !has_own_index {
                tracing::warn!(
                    "the storage of {} cannot lock files; {LOCAL_INDEX}",
                    out.display()
                );
            }
            match alike(input).filter(|_| folds_case) {
                Some((one, other)) => Err(refuse(format!(
                    "the storage of {} takes the stories {one} and {other} for one: it does not tell \
                     upper from lower case; give one of them another id",
                    out.display()
                ))),
                None => Ok(()),
            }
        }
    }
}

/// That the storage of a folder cannot hold a run folder, why not, and what to do.
fn told(out: &Path, unfit: &Unfit) -> String {
    format!(
        "the storage of {} cannot hold a run folder: {unfit}; {ELSEWHERE}",
        out.display()
    )
}

/// Two ids that differ only in case.
fn alike(input: &Input) -> Option<(&StoryId, &StoryId)> {
    let mut seen: BTreeMap<String, &StoryId> = BTreeMap::new();
    let ids = input.lines.iter().map(|line| match line {
        Line::Story(story) => &story.id,
        Line::Brief(brief) => &brief.id,
    });
    for id in ids {
        if let Some(other) = seen.insert(id.folded(), id) {
            return Some((other, id));
        }
    }
    None
}
