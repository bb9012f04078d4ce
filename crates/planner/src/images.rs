//! Pictures of products, read as everybody else reads them.

pub use storyloom_pictures::{
    Limits as ImageLimits, Picture, PictureFolder as ImageFolder, PictureProblem as ImageProblem,
};
