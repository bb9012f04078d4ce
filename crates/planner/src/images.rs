//! Pictures of products: looked at with suspicion before anything is decoded.
//!
//! A brief names a file beside it or below it. Anything else is refused: absolute paths, `..`,
//! links that lead outside, what is not a plain file, URLs of any kind, files and pictures beyond
//! the bounds, and every format but PNG and JPEG. Nothing is fetched from a network.

use std::fs::{File, OpenOptions};
use std::io::{Cursor, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Component, Path, PathBuf};

use image::{DynamicImage, ImageFormat, ImageReader};
use sha2::{Digest, Sha256};

/// Bounds of a picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageLimits {
    /// Largest file, in bytes.
    pub bytes: u64,
    /// Most pixels of a decoded picture.
    pub pixels: u64,
    /// Shortest and longest side, in pixels.
    pub sides: (u32, u32),
}

impl Default for ImageLimits {
    fn default() -> Self {
        Self {
            bytes: 32 << 20,
            pixels: 50_000_000,
            sides: (16, 16_384),
        }
    }
}

/// Why a picture is not used. Each message fits after "cannot be used: ".
#[derive(Debug, thiserror::Error)]
pub enum ImageProblem {
    /// It is named by a URL.
    #[error("it is a URL; pictures are read from files only, so download it first")]
    Url,
    /// The path is absolute or has `..` in it.
    #[error("its path leaves the folder of the briefs")]
    Path,
    /// A link on the way leads outside.
    #[error("a link in its path leads out of the folder of the briefs")]
    Link,
    /// A folder, a pipe, a device.
    #[error("it is not a plain file")]
    NotAFile,
    /// It cannot be opened or read.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// The file has no byte.
    #[error("the file is empty")]
    Empty,
    /// The file is too large.
    #[error("the file has {bytes} bytes, at most {most} are read")]
    Bytes {
        /// Size of the file, in bytes.
        bytes: u64,
        /// The bound.
        most: u64,
    },
    /// Neither PNG nor JPEG, by its first bytes.
    #[error("it is neither PNG nor JPEG")]
    Format,
    /// The header promises too large or too small a picture.
    #[error(
        "it says it has {width}x{height} pixels; sides must be {least} to {longest} and at most {pixels} pixels in all"
    )]
    Size {
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
        /// Shortest side.
        least: u32,
        /// Longest side.
        longest: u32,
        /// Most pixels.
        pixels: u64,
    },
    /// The bytes are no picture.
    #[error("it cannot be decoded: {0}")]
    Damaged(String),
    /// The digest is another one than the brief says.
    #[error("its SHA-256 is {found}, but the brief says {wanted}")]
    Digest {
        /// That of the file.
        found: String,
        /// That of the brief.
        wanted: String,
    },
}

/// A picture that was decoded.
#[derive(Debug, Clone, PartialEq)]
pub struct Picture {
    /// The pixels, `[height, width, 3]`; what was transparent is white.
    pub pixels: image::RgbImage,
    /// SHA-256 of the file, in lower-case hexadecimal.
    pub sha256: String,
}

/// The folder that pictures may come from.
#[derive(Debug, Clone)]
pub struct ImageFolder {
    folder: PathBuf,
    limits: ImageLimits,
}

impl ImageFolder {
    /// Pictures in `folder` and below it.
    pub fn new(folder: impl Into<PathBuf>, limits: ImageLimits) -> Self {
        let folder = folder.into();
        let here = folder.as_os_str().is_empty();
        Self {
            folder: if here { PathBuf::from(".") } else { folder },
            limits,
        }
    }

    /// Opens, bounds and decodes the picture at `path`, relative to the folder. A digest that is
    /// given must be that of the file.
    ///
    /// # Errors
    /// Every reason not to use it.
    pub fn load(&self, path: &str, sha256: Option<&str>) -> Result<Picture, ImageProblem> {
        let bytes = self.read(&self.resolve(path)?)?;
        let found = hex(&Sha256::digest(&bytes));
        if let Some(wanted) = sha256.filter(|wanted| *wanted != found) {
            let wanted = wanted.to_owned();
            return Err(ImageProblem::Digest { found, wanted });
        }
        Ok(Picture {
            pixels: decode(&bytes, &self.limits)?,
            sha256: found,
        })
    }

    /// The file that `path` means, with all links followed.
    fn resolve(&self, path: &str) -> Result<PathBuf, ImageProblem> {
        if is_url(path) {
            return Err(ImageProblem::Url);
        }
        let relative = Path::new(path);
        let inside = |part| matches!(part, Component::Normal(_) | Component::CurDir);
        if path.contains(['\\', '\0']) || !relative.components().all(inside) {
            return Err(ImageProblem::Path);
        }
        let folder = self.folder.canonicalize()?;
        let file = folder.join(relative).canonicalize()?;
        if !file.starts_with(&folder) {
            return Err(ImageProblem::Link);
        }
        Ok(file)
    }

    fn read(&self, path: &Path) -> Result<Vec<u8>, ImageProblem> {
        let most = self.limits.bytes;
        let file = open(path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(ImageProblem::NotAFile);
        }
        let bytes = metadata.len();
        if bytes > most {
            return Err(ImageProblem::Bytes { bytes, most });
        }
        // The file may grow while it is read.
        let mut content = Vec::new();
        file.take(most + 1).read_to_end(&mut content)?;
        match content.len() as u64 {
            0 => Err(ImageProblem::Empty),
            bytes if bytes > most => Err(ImageProblem::Bytes { bytes, most }),
            _ => Ok(content),
        }
    }
}

/// Opens without waiting for the other end of a pipe, and follows no link: there is none left in
/// the path, unless somebody has put it there since.
fn open(path: &Path) -> Result<File, ImageProblem> {
    let flags = rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::NOFOLLOW;
    let mut options = OpenOptions::new();
    let opened = options
        .read(true)
        .custom_flags(flags.bits() as i32)
        .open(path);
    opened.map_err(|error| match rustix::io::Errno::from_io_error(&error) {
        Some(rustix::io::Errno::LOOP) => ImageProblem::Link,
        _ => ImageProblem::Io(error),
    })
}

/// Whether a text begins with a scheme, as `http://…` and `data:…` do, or with `//`.
fn is_url(path: &str) -> bool {
    let scheme = path.split_once(':').map(|(scheme, _)| scheme);
    let plain = |scheme: &str| {
        scheme.starts_with(|c: char| c.is_ascii_alphabetic())
            && scheme
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.'))
    };
    path.starts_with("//") || scheme.is_some_and(plain)
}

/// Decodes a PNG or JPEG file, its size checked before any pixel is.
fn decode(bytes: &[u8], limits: &ImageLimits) -> Result<image::RgbImage, ImageProblem> {
    let damaged = |error: image::ImageError| ImageProblem::Damaged(error.to_string());
    let format = image::guess_format(bytes).map_err(|_| ImageProblem::Format)?;
    if !matches!(format, ImageFormat::Png | ImageFormat::Jpeg) {
        return Err(ImageProblem::Format);
    }
    let (least, longest) = limits.sides;
    let header = ImageReader::with_format(Cursor::new(bytes), format);
    let (width, height) = header.into_dimensions().map_err(damaged)?;
    let pixels = u64::from(width) * u64::from(height);
    let side = |side| (least..=longest).contains(&side);
    if !side(width) || !side(height) || pixels > limits.pixels {
        return Err(ImageProblem::Size {
            width,
            height,
            least,
            longest,
            pixels: limits.pixels,
        });
    }
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    let mut allowed = image::Limits::default();
    allowed.max_image_width = Some(longest);
    allowed.max_image_height = Some(longest);
    // Four channels of two bytes, and as much again to convert them.
    allowed.max_alloc = Some(pixels * 16 + (16 << 20));
    reader.limits(allowed);
    Ok(on_white(reader.decode().map_err(damaged)?))
}

fn on_white(picture: DynamicImage) -> image::RgbImage {
    if !picture.color().has_alpha() {
        return picture.into_rgb8();
    }
    let picture = picture.into_rgba8();
    let mut opaque = image::RgbImage::new(picture.width(), picture.height());
    for (from, to) in picture.pixels().zip(opaque.pixels_mut()) {
        let [red, green, blue, alpha] = from.0.map(u32::from);
        let over = |value: u32| ((value * alpha + 255 * (255 - alpha) + 127) / 255) as u8;
        to.0 = [over(red), over(green), over(blue)];
    }
    opaque
}

impl Picture {
    /// The picture as a `data:` URL of a PNG file, its longer side at most `side` pixels.
    ///
    /// # Errors
    /// It cannot be encoded.
    pub fn data_url(&self, side: u32) -> Result<String, ImageProblem> {
        use base64::Engine as _;
        let mut png = Vec::new();
        let shrunk = DynamicImage::ImageRgb8(self.shrunk(side));
        shrunk
            .write_to(&mut Cursor::new(&mut png), ImageFormat::Png)
            .map_err(|error| ImageProblem::Damaged(error.to_string()))?;
        let text = base64::engine::general_purpose::STANDARD.encode(png);
        Ok(format!("data:image/png;base64,{text}"))
    }

    /// The pixels, made smaller until the longer side has at most `side` of them.
    pub fn shrunk(&self, side: u32) -> image::RgbImage {
        let (width, height) = self.pixels.dimensions();
        let longer = width.max(height);
        if longer <= side {
            return self.pixels.clone();
        }
        let scaled = |length: u32| {
            let exact = u64::from(length) * u64::from(side) / u64::from(longer);
            u32::try_from(exact).unwrap_or(side).max(1)
        };
        let filter = image::imageops::FilterType::Triangle;
        image::imageops::resize(&self.pixels, scaled(width), scaled(height), filter)
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
    fn folders() -> (tempfile::TempDir, ImageFolder) {
        let root = tempfile::tempdir().unwrap();
        let briefs = root.path().join("briefs");
        fs::create_dir_all(briefs.join("img")).unwrap();
        fs::write(briefs.join("img/a.png"), png(32, 20)).unwrap();
        fs::write(root.path().join("secret.png"), png(32, 32)).unwrap();
        let folder = ImageFolder::new(briefs, ImageLimits::default());
        (root, folder)
    }

    #[track_caller]
    fn refused(folder: &ImageFolder, path: &str, wanted: &str) {
        let found = folder.load(path, None).unwrap_err().to_string();
        assert!(found.contains(wanted), "{path}: {found}, not {wanted}");
    }

    #[test]
    fn a_picture_is_decoded_and_its_digest_is_checked() {
        let (root, folder) = folders();
        let picture = folder.load("img/a.png", None).unwrap();
        assert_eq!(picture.pixels.dimensions(), (32, 20));
        assert!(folder.load("./img/a.png", Some(&picture.sha256)).is_ok());
        let other = folder.load("img/a.png", Some("00")).unwrap_err();
        assert!(matches!(other, ImageProblem::Digest { .. }));
        let mut rgba = image::RgbaImage::from_pixel(16, 16, image::Rgba([0, 0, 0, 0]));
        rgba.put_pixel(0, 0, image::Rgba([10, 20, 30, 255]));
        rgba.save(root.path().join("briefs/clear.png")).unwrap();
        let clear = folder.load("clear.png", None).unwrap().pixels;
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
        refused(&folder, "..\\secret.png", "leaves the folder");
        refused(&folder, "missing.png", "No such file");
        refused(&folder, "img", "not a plain file");
        let briefs = root.path().join("briefs");
        std::os::unix::fs::symlink(&secret, briefs.join("link.png")).unwrap();
        std::os::unix::fs::symlink(root.path(), briefs.join("up")).unwrap();
        std::os::unix::fs::symlink("img/a.png", briefs.join("fine.png")).unwrap();
        refused(&folder, "link.png", "a link in its path");
        refused(&folder, "up/secret.png", "a link in its path");
        assert!(folder.load("fine.png", None).is_ok());
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
        let checksum = crc32(&bomb[12..29]);
        bomb[29..33].copy_from_slice(&checksum.to_be_bytes());
        fs::write(briefs.join("bomb.png"), bomb).unwrap();
        refused(&folder, "bomb.png", "60000x60000");
        // Sides within their bound, but too many pixels together: a few kilobytes of file.
        fs::write(briefs.join("wide.png"), png(16_000, 4_000)).unwrap();
        refused(&folder, "wide.png", "16000x4000");
        fs::write(briefs.join("dot.png"), png(1, 1)).unwrap();
        refused(&folder, "dot.png", "1x1");
        let huge = File::create(briefs.join("huge.png")).unwrap();
        huge.set_len(1 << 40).unwrap();
        refused(&folder, "huge.png", "the file has 1099511627776 bytes");
    }

    #[test]
    fn other_formats_and_damaged_files_are_refused() {
        let (root, folder) = folders();
        let briefs = root.path().join("briefs");
        fs::write(briefs.join("text.png"), "<svg onload=\"x\"/>").unwrap();
        fs::write(briefs.join("gif.png"), b"GIF89a\x01\x00\x01\x00").unwrap();
        let mut torn = png(64, 64);
        torn.truncate(torn.len() / 2);
        fs::write(briefs.join("torn.png"), torn).unwrap();
        refused(&folder, "text.png", "neither PNG nor JPEG");
        refused(&folder, "gif.png", "neither PNG nor JPEG");
        refused(&folder, "torn.png", "cannot be decoded");
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

    fn crc32(bytes: &[u8]) -> u32 {
        let mut crc = u32::MAX;
        for &byte in bytes {
            crc ^= u32::from(byte);
            for _ in 0..8 {
                crc = (crc >> 1) ^ (0xEDB8_8320 & (crc & 1).wrapping_neg());
            }
        }
        !crc
    }
}
