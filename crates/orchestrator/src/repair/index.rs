//! The memory index: one that does not open is moved aside, since the records have it all.

use storyloom_memory::index::open_index;
use storyloom_memory::{IndexKind, MemoryError};

use super::{CameTo, Repaired, shown};
use crate::error::RunError;
use crate::folder::run_folder::{RunFile, RunFolder};

/// Opens each index of the run that no program has open.
pub(super) fn look_after(
    folder: &RunFolder,
    run: &RunFile,
    repaired: &mut Repaired,
) -> Result<(), RunError> {
    let memory = &run.config["memory"];
    let kind = serde_json::from_value::<IndexKind>(memory["backend"].clone());
    // An index elsewhere is the matter of the machine that has it.
    let is_here = memory["path"].as_str().is_none_or(str::is_empty);
    let (Ok(kind), true, Some(places)) = (kind, is_here, folder.index()) else {
        return Ok(());
    };
    // Each program finds its index by its number; one that a listing leaves out is opened by the next start.
    for name in folder.storage().list(&places)? {
        let place = places.join(&name);
        if name.parse::<u32>().is_err() {
            continue;
        }
        match open_index(kind, &place) {
            Ok(opened) => {
                if let Some(aside) = opened.moved_aside {
                    let what = format!(
                        "the memory index {} did not open; it was moved to {}, and records fill a new \
                         one",
                        shown(&place),
                        shown(&aside)
                    );
                    repaired.of_run(CameTo::Healed, what);
                }
            }
            // A program that works on the run has it.
            Err(MemoryError::IndexBusy { .. }) => {}
            // A disk that nobody may write to.
            Err(error) => repaired.of_run(CameTo::Left, error.to_string()),
        }
    }
    Ok(())
}
