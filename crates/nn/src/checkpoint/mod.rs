//! Checkpoints in the layout of the hub: a folder per component with `config.json` and
//! safetensors files.
//!
//! [`Checkpoint`] opens a component folder, [`Weights`] hands its tensors to the layers by their
//! diffusers names, converting to the wanted dtype one tensor at a time. Names of the original
//! Wan layout are translated by a [`KeyMap`].

mod counts;
mod entry;
mod files;
mod float8;
mod folders;
mod keys;
mod leftovers;
mod places;
mod read;
mod stamps;
mod weights;

pub use entry::TensorEntry;
pub use files::Checkpoint;
pub use folders::component_folder;
pub use keys::KeyMap;
pub use places::is_hidden;
pub use read::{read_file, read_json};
pub use stamps::{Change, Stamps};
pub use weights::{Target, Weights};
