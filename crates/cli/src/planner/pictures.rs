//! Looking at the pictures that manifests and briefs name.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;

use rayon::prelude::*;
use storyloom_pictures::{Limits, PictureFolder, PictureProblem};
use storyloom_story::Ground;

/// Pictures of products, in the folder of the briefs and below it.
pub fn images(folder: &Path) -> PictureFolder {
    PictureFolder::new(folder, Limits::default())
}

/// Which rules a picture's path is under.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Use {
    /// The picture of a brief's product.
    Product,
    /// A reference image of a story.
    Reference,
}

/// Looks at every picture once, however many lines name it.
pub struct PictureChecks {
    products: PictureFolder,
    seen: RefCell<BTreeMap<(Use, String), Result<String, String>>>,
}

impl PictureChecks {
    /// Checks pictures in `folder`.
    pub fn new(folder: &Path) -> Self {
        Self {
            products: images(folder),
            seen: RefCell::default(),
        }
    }

    /// Looks at many pictures at once, on all cores.
    pub fn look_at(&self, pictures: impl IntoIterator<Item = (Use, String)>) {
        let wanted: Vec<_> = {
            let seen = self.seen.borrow();
            let new = pictures
                .into_iter()
                .filter(|picture| !seen.contains_key(picture));
            let new: std::collections::BTreeSet<_> = new.collect();
            new.into_iter().collect()
        };
        let products = &self.products;
        let found: Vec<_> = wanted
            .into_par_iter()
            .map(|picture| {
                let digest = digest(products, &picture);
                (picture, digest)
            })
            .collect();
        self.seen.borrow_mut().extend(found);
    }

    /// Whether a picture can be used, and has the digest that is given.
    ///
    /// # Errors
    /// Why not.
    pub fn check(&self, of: Use, path: &str, sha256: Option<&str>) -> Result<(), String> {
        let picture = (of, path.to_owned());
        self.look_at([picture.clone()]);
        match (self.seen.borrow().get(&picture), sha256) {
            (Some(Ok(found)), Some(wanted)) if found != wanted => Err(format!(
                "its SHA-256 is {found}, but the brief says {wanted}"
            )),
            (Some(Err(reason)), _) => Err(reason.clone()),
            _ => Ok(()),
        }
    }

    /// Whether a picture lies where pictures may lie, or is not there at all: then only its content
    /// keeps it from being used.
    pub fn may_be_there(&self, of: Use, path: &str) -> bool {
        match of {
            Use::Reference => true,
            Use::Product => match self.products.resolve(path) {
                Ok(file) => file.is_file(),
                Err(problem) => matches!(problem, PictureProblem::Io(_)),
            },
        }
    }

    /// The digests of the pictures of products that can be used, by their paths.
    pub fn digests(&self) -> BTreeMap<String, String> {
        let seen = self.seen.borrow();
        let good = seen.iter().filter_map(|((of, path), found)| {
            let digest = found.as_ref().ok().filter(|_| *of == Use::Product)?;
            Some((path.clone(), digest.clone()))
        });
        good.collect()
    }
}

/// The digest of a picture that can be used, or why it cannot.
fn digest(products: &PictureFolder, (of, path): &(Use, String)) -> Result<String, String> {
    let loaded = match of {
        Use::Product => products.load(path, None, Ground::default()),
        Use::Reference => {
            let folder = products.clone().or_elsewhere();
            folder.load(path, None, Ground::default())
        }
    };
    match loaded {
        Ok(picture) => Ok(picture.sha256),
        Err(error) => Err(error.to_string()),
    }
}
