//! What lies in a run folder beside the records: its files, their names and their forms.

pub(crate) mod film_size;
pub(crate) mod folder_file;
pub mod identity;
pub mod input_file;
pub mod journals;
mod json;
pub(crate) mod lists;
pub(crate) mod missing;
pub mod no_keyframes;
pub mod output;
pub mod plan_record;
pub mod plans;
pub mod recorded;
pub(crate) mod records;
pub mod run_file;
pub mod run_folder;
pub mod seal;
pub mod set_aside;
pub mod sizes;
pub mod story_cost;
pub mod story_file;
pub mod terms;
