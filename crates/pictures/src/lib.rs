//! Pictures that users bring, read in one way by everybody who looks at them.
//!
//! `validate`, the planner, the memory bank and the scorer must see the same product. So there is one
//! reader: [`PictureFolder`] opens a file with the suspicion of an [`InputFolder`], which is that of
//! scripts as well, [`read`] decides by its content what it is, checks its bounds before any pixel is
//! decoded and its end after that, turns it upright, converts its colours to sRGB and lays what is
//! transparent on a [`Ground`](storyloom_story::Ground).
//! [`fitted`] then puts it into the shape of a film, once and with a filter.
//!
//! Frames and keyframes that storyloom made itself are not read here: they are exact as they are.

mod avif;
mod colours;
mod complete;
mod decode;
mod fitted;
mod folder;
mod format;
mod input_folder;
mod problem;
mod raster;

pub use decode::{FORMATS, Limits, read};
pub use fitted::fitted;
pub use folder::{Picture, PictureFolder};
pub use input_folder::{FileProblem, InputFolder, read_at_most, text_at_most};
pub use problem::PictureProblem;
