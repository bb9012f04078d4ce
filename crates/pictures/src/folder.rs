//! Opening the file of a picture and decoding it.

use std::io::Cursor;
use std::path::PathBuf;

use base64::Engine as _;
use image::{DynamicImage, ImageFormat, RgbImage};
use sha2::{Digest, Sha256};
use storyloom_story::Ground;

use crate::decode::{Limits, read};
use crate::fitted::shrunk;
use crate::input_folder::InputFolder;
use crate::problem::PictureProblem;

/// A picture that was decoded.
#[derive(Debug, Clone, PartialEq)]
pub struct Picture {
    /// The pixels in sRGB, `[height, width, 3]`, upright; what was transparent shows the ground.
    pub pixels: RgbImage,
    /// SHA-256 of the file, in lower-case hexadecimal.
    pub sha256: String,
}

impl Picture {
    /// The picture as a `data:` URL of a PNG file, its longer side at most `side` pixels.
    ///
    /// # Errors
    /// It cannot be encoded.
    pub fn data_url(&self, side: u32) -> Result<String, PictureProblem> {
        let mut png = Vec::new();
        let small = DynamicImage::ImageRgb8(self.shrunk(side));
        small
            .write_to(&mut Cursor::new(&mut png), ImageFormat::Png)
            .map_err(PictureProblem::damaged)?;
        let text = base64::engine::general_purpose::STANDARD.encode(png);
        Ok(format!("data:image/png;base64,{text}"))
    }

    /// The pixels, made smaller until the longer side has at most `side` of them.
    pub fn shrunk(&self, side: u32) -> RgbImage {
        shrunk(&self.pixels, side)
    }
}

/// The folder that paths of pictures count from.
#[derive(Debug, Clone)]
pub struct PictureFolder {
    folder: InputFolder,
    limits: Limits,
}

impl PictureFolder {
    /// Pictures in `folder`, where it lets files lie.
    pub fn new(folder: impl Into<InputFolder>, limits: Limits) -> Self {
        Self {
            folder: folder.into(),
            limits,
        }
    }

    /// Opens, bounds and decodes the picture at `path`, relative to the folder. A digest that is
    /// given must be that of the file.
    ///
    /// # Errors
    /// Every reason not to use it.
    pub fn load(
        &self,
        path: &str,
        sha256: Option<&str>,
        ground: Ground,
    ) -> Result<Picture, PictureProblem> {
        let bytes = self.folder.read(path, self.limits.bytes)?;
        let found = hex(&Sha256::digest(&bytes));
        if let Some(wanted) = sha256.filter(|wanted| *wanted != found) {
            let wanted = wanted.to_owned();
            return Err(PictureProblem::Digest { found, wanted });
        }
        Ok(Picture {
            pixels: read(&bytes, &self.limits, ground)?,
            sha256: found,
        })
    }

    /// The file that `path` means, if it is a plain one within the bounds. It is not opened.
    ///
    /// # Errors
    /// As [`load`](Self::load), as far as that can be told without opening the file.
    pub fn find(&self, path: &str) -> Result<PathBuf, PictureProblem> {
        Ok(self.folder.find(path, self.limits.bytes)?)
    }

    /// The file that `path` means, with all links followed.
    ///
    /// # Errors
    /// The path leads where no picture may lie, or there is no such file.
    pub fn resolve(&self, path: &str) -> Result<PathBuf, PictureProblem> {
        Ok(self.folder.resolve(path)?)
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn png(width: u32, height: u32) -> Vec<u8> {
        let picture = image::RgbImage::from_pixel(width, height, image::Rgb([200, 30, 10]));
        let mut bytes = Vec::new();
        let picture = DynamicImage::ImageRgb8(picture);
        picture
            .write_to(&mut Cursor::new(&mut bytes), ImageFormat::Png)
            .unwrap();
        bytes
    }

    /// A folder `briefs` with `a.png` in it, and a picture outside of it.
    fn folders() -> (tempfile::TempDir, PictureFolder) {
        let root = tempfile::tempdir().unwrap();
        let briefs = root.path().join("briefs");
        fs::create_dir_all(briefs.join("img")).unwrap();
        fs::write(briefs.join("img/a.png"), png(32, 20)).unwrap();
        fs::write(root.path().join("secret.png"), png(32, 32)).unwrap();
        let folder = PictureFolder::new(briefs, Limits::default());
        (root, folder)
    }

    #[track_caller]
    fn refused(folder: &PictureFolder, path: &str, wanted: &str) {
        let found = folder
            .load(path, None, Ground::WHITE)
            .unwrap_err()
            .to_string();
        assert!(found.contains(wanted), "{path}: {found}, not {wanted}");
    }

    #[test]
    fn a_picture_is_decoded_and_its_digest_is_checked() {
        let (root, folder) = folders();
        let picture = folder.load("img/a.png", None, Ground::WHITE).unwrap();
        assert_eq!(picture.pixels.dimensions(), (32, 20));
        assert!(
            folder
                .load("./img/a.png", Some(&picture.sha256), Ground::WHITE)
                .is_ok()
        );
        let other = folder
            .load("img/a.png", Some("00"), Ground::WHITE)
            .unwrap_err();
        assert!(matches!(other, PictureProblem::Digest { .. }));
        let mut rgba = image::RgbaImage::from_pixel(16, 16, image::Rgba([0, 0, 0, 0]));
        rgba.put_pixel(0, 0, image::Rgba([10, 20, 30, 255]));
        rgba.save(root.path().join("briefs/clear.png")).unwrap();
        let clear = folder
            .load("clear.png", None, Ground::WHITE)
            .unwrap()
            .pixels;
        assert_eq!(clear.get_pixel(0, 0).0, [10, 20, 30]);
        assert_eq!(clear.get_pixel(1, 0).0, [255, 255, 255]);
    }

    #[test]
    fn paths_and_links_that_leave_the_folder_are_refused() {
        let (root, folder) = folders();
        let secret = root.path().join("secret.png");
        refused(&folder, "../secret.png", "leaves the folder");
        refused(&folder, "img/../../secret.png", "leaves the folder");
        refused(&folder, "img/../img/a.png", "leaves the folder");
        refused(&folder, secret.to_str().unwrap(), "leaves the folder");
        refused(&folder, "img\\a.png", "backslash");
        refused(&folder, "missing.png", "No such file");
        refused(&folder, "img", "not a plain file");
        let briefs = root.path().join("briefs");
        std::os::unix::fs::symlink(&secret, briefs.join("link.png")).unwrap();
        std::os::unix::fs::symlink(root.path(), briefs.join("up")).unwrap();
        std::os::unix::fs::symlink("img/a.png", briefs.join("fine.png")).unwrap();
        refused(&folder, "link.png", "a link in its path");
        refused(&folder, "up/secret.png", "a link in its path");
        assert!(folder.load("fine.png", None, Ground::WHITE).is_ok());
    }

    /// No address is looked up at all, so none of a private network either.
    #[test]
    fn urls_are_refused() {
        let (_root, folder) = folders();
        for url in [
            "http://example.org/a.png",
            "https://127.0.0.1/a.png",
            "http://169.254.169.254/latest/meta-data",
            "http://[::1]/a.png",
            "file:///etc/passwd",
            "FILE:a.png",
            "ftp://10.0.0.1/a.png",
            "data:image/png;base64,AAAA",
            "//10.0.0.1/share/a.png",
        ] {
            refused(&folder, url, "it is a URL");
        }
    }

    #[test]
    fn pipes_do_not_hang_and_empty_files_are_refused() {
        let (root, folder) = folders();
        let pipe = root.path().join("briefs/pipe.png");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &pipe,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR,
            0,
        )
        .unwrap();
        refused(&folder, "pipe.png", "not a plain file");
        fs::write(root.path().join("briefs/empty.png"), b"").unwrap();
        refused(&folder, "empty.png", "the file is empty");
    }

    #[test]
    fn bombs_are_refused_before_they_are_decoded() {
        let (root, folder) = folders();
        let briefs = root.path().join("briefs");
        // A header that promises 60000 x 60000 pixels, in front of few bytes.
        let mut bomb = png(32, 32);
        bomb[16..20].copy_from_slice(&60_000_u32.to_be_bytes());
        bomb[20..24].copy_from_slice(&60_000_u32.to_be_bytes());
        let checksum = crc32fast::hash(&bomb[12..29]);
        bomb[29..33].copy_from_slice(&checksum.to_be_bytes());
        fs::write(briefs.join("bomb.png"), bomb).unwrap();
        refused(&folder, "bomb.png", "60000x60000");
        // Sides within their bound, but too many pixels together: a few kilobytes of file.
        fs::write(briefs.join("wide.png"), png(16_000, 5_000)).unwrap();
        refused(&folder, "wide.png", "16000x5000");
        fs::write(briefs.join("dot.png"), png(1, 1)).unwrap();
        refused(&folder, "dot.png", "1x1");
        let huge = fs::File::create(briefs.join("huge.png")).unwrap();
        huge.set_len(1 << 40).unwrap();
        refused(&folder, "huge.png", "the file has 1099511627776 bytes");
    }

    #[test]
    fn a_data_url_is_a_picture_of_bounded_size() {
        use base64::Engine as _;
        let picture = Picture {
            pixels: image::RgbImage::from_pixel(300, 100, image::Rgb([1, 2, 3])),
            sha256: String::new(),
        };
        let url = picture.data_url(90).unwrap();
        let text = url.strip_prefix("data:image/png;base64,").unwrap();
        let bytes = base64::engine::general_purpose::STANDARD
            .decode(text)
            .unwrap();
        let read = image::load_from_memory(&bytes).unwrap();
        assert_eq!((read.width(), read.height()), (90, 30));
        assert_eq!(picture.shrunk(300).dimensions(), (300, 100));
    }
}
