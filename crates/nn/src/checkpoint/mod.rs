//! Checkpoints in the layout of the hub: a folder per component with `config.json` and
//! safetensors files.
//!
//! [`Checkpoint`] opens a component folder, [`Weights`] hands its tensors to the layers by their
//! diffusers names, converting to the wanted dtype one tensor at a time. Files in the layouts of the
//! original code (Wan, FLUX and its autoencoder) are read in the layout of diffusers: tensors there are
//! row ranges of theirs. A [`SingleFilePart`] says what to open of a single file that holds a network
//! without a folder, or several.

mod counts;
mod entry;
mod files;
mod float8;
mod folders;
mod keys;
mod leftovers;
pub(crate) mod original;
mod places;
mod read;
mod refused;
mod single_file;
mod stamps;
mod weights;

pub use entry::TensorEntry;
pub use files::Checkpoint;
pub use folders::component_folder;
pub use keys::KeyMap;
pub use places::is_hidden;
pub use read::{read_file, read_json};
pub use single_file::SingleFilePart;
pub use stamps::{Change, Stamps};
pub use weights::{Target, Weights};
