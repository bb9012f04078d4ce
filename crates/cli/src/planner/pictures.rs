//! Looking at the pictures that manifests and briefs name, and at ready-made first shots.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use rayon::prelude::*;
use storyloom_pictures::{FileProblem, InputFolder, Limits, PictureFolder, PictureProblem};
use storyloom_story::Ground;

/// What a picture is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Use {
    /// The picture of a brief's product.
    Product,
    /// A reference image of a story.
    Reference,
    /// No picture, but a video that is the first shot of a story: it is decoded when that is taken.
    FirstShot,
}

/// How much is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// Where the path leads; that there is nothing is no problem.
    Path,
    /// That there is a plain file within the bounds. It is not opened.
    File,
    /// All of it: the file is read and decoded.
    Content,
}

/// A picture as a line of a manifest names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedPicture {
    /// Whose it is.
    pub of: Use,
    /// Its path, from the folder of the manifest.
    pub path: String,
    /// The SHA-256 that it must have, if the line says so.
    pub sha256: Option<String>,
}

/// The SHA-256 of a picture, if it was opened; or why it cannot be used.
type Seen = Result<Option<String>, String>;

/// Looks at every picture once, however many lines name it.
pub struct PictureChecks {
    folder: PictureFolder,
    depth: Depth,
    seen: RefCell<BTreeMap<(Use, String), Seen>>,
}

impl PictureChecks {
    /// Checks pictures in `folder`.
    pub fn new(folder: &InputFolder, depth: Depth) -> Self {
        Self {
            folder: PictureFolder::new(folder.clone(), Limits::default()),
            depth,
            seen: RefCell::default(),
        }
    }

    /// Looks at many pictures at once, on all cores: whether all of them can be used.
    pub fn are_usable(&self, pictures: &[NamedPicture]) -> bool {
        let names = pictures.iter();
        self.look_at(names.map(|picture| (picture.of, picture.path.clone())));
        pictures.iter().all(|picture| {
            let NamedPicture { of, path, sha256 } = picture;
            self.check(*of, path, sha256.as_deref()).is_ok()
        })
    }

    fn look_at(&self, pictures: impl IntoIterator<Item = (Use, String)>) {
        let wanted: Vec<_> = {
            let seen = self.seen.borrow();
            let pictures = pictures.into_iter();
            let new = pictures.filter(|picture| !seen.contains_key(picture));
            new.collect::<BTreeSet<_>>().into_iter().collect()
        };
        let (folder, depth) = (&self.folder, self.depth);
        let found: Vec<_> = wanted
            .into_par_iter()
            .map(|picture| {
                let seen = look(folder, depth, &picture);
                (picture, seen.map_err(|problem| problem.to_string()))
            })
            .collect();
        self.seen.borrow_mut().extend(found);
    }

    /// Whether a picture can be used, and has the digest that is given, as far as is looked.
    ///
    /// # Errors
    /// Why not.
    pub fn check(&self, of: Use, path: &str, sha256: Option<&str>) -> Result<(), String> {
        let picture = (of, path.to_owned());
        self.look_at([picture.clone()]);
        match (self.seen.borrow().get(&picture), sha256) {
            (Some(Ok(Some(found))), Some(wanted)) if found != wanted => Err(format!(
                "its SHA-256 is {found}, but the brief says {wanted}"
            )),
            (Some(Err(reason)), _) => Err(reason.clone()),
            _ => Ok(()),
        }
    }

    /// The digests of the pictures of products that were opened and can be used, by their paths.
    pub fn digests(&self) -> BTreeMap<String, String> {
        let seen = self.seen.borrow();
        let good = seen.iter().filter_map(|((of, path), found)| {
            let found = found.as_ref().ok().filter(|_| *of == Use::Product)?;
            Some((path.clone(), found.clone()?))
        });
        good.collect()
    }
}

fn look(
    folder: &PictureFolder,
    depth: Depth,
    (of, path): &(Use, String),
) -> Result<Option<String>, PictureProblem> {
    match depth {
        Depth::Content if *of == Use::FirstShot => folder.find(path).map(|_| None),
        Depth::Path => match folder.resolve(path) {
            Err(PictureProblem::File(FileProblem::Io(_))) | Ok(_) => Ok(None),
            Err(problem) => Err(problem),
        },
        Depth::File => folder.find(path).map(|_| None),
        Depth::Content => {
            let picture = folder.load(path, None, Ground::default())?;
            Ok(Some(picture.sha256))
        }
    }
}
