//! Looking at the pictures that briefs name.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;

use storyloom_planner::{ImageFolder, ImageLimits};

/// Pictures of products, in the folder of the briefs and below it.
pub fn images(folder: &Path) -> ImageFolder {
    ImageFolder::new(folder, ImageLimits::default())
}

/// Looks at every picture once, however many briefs name it.
pub struct PictureChecks {
    images: ImageFolder,
    seen: RefCell<BTreeMap<String, Result<String, String>>>,
}

impl PictureChecks {
    /// Checks pictures in `folder`.
    pub fn new(folder: &Path) -> Self {
        Self {
            images: images(folder),
            seen: RefCell::default(),
        }
    }

    /// Whether a picture can be used, and has the digest that is given.
    ///
    /// # Errors
    /// Why not.
    pub fn check(&self, path: &str, sha256: Option<&str>) -> Result<(), String> {
        let mut seen = self.seen.borrow_mut();
        let found = seen.entry(path.to_owned()).or_insert_with(|| {
            let loaded = self.images.load(path, None);
            loaded
                .map(|picture| picture.sha256)
                .map_err(|error| error.to_string())
        });
        match (found, sha256) {
            (Ok(found), Some(wanted)) if found != wanted => Err(format!(
                "its SHA-256 is {found}, but the brief says {wanted}"
            )),
            (Ok(_), _) => Ok(()),
            (Err(reason), _) => Err(reason.clone()),
        }
    }

    /// The digests of the pictures that can be used, by their paths.
    pub fn digests(&self) -> BTreeMap<String, String> {
        let seen = self.seen.borrow();
        let good = seen.iter().filter_map(|(path, found)| {
            let digest = found.as_ref().ok()?;
            Some((path.clone(), digest.clone()))
        });
        good.collect()
    }
}
