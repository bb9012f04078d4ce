//! From the colours of a file to sRGB.

use std::sync::Arc;

use moxcms::{
    CicpColorPrimaries, CicpProfile, ColorProfile, DataColorSpace, Layout, MatrixCoefficients,
    TransferCharacteristics, Transform8BitExecutor, Transform16BitExecutor, TransformOptions,
};

use crate::problem::PictureProblem;
use crate::raster::Channels;

/// What the numbers of a file mean.
#[derive(Debug, Clone, Default)]
pub(crate) enum Colours {
    /// sRGB, or nobody knows.
    #[default]
    Srgb,
    /// What the profile says.
    Profile(Box<ColorProfile>),
}

/// Code points of ITU-T H.273.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CodePoints {
    /// ColourPrimaries.
    pub primaries: u8,
    /// TransferCharacteristics.
    pub transfer: u8,
}

impl CodePoints {
    /// The number that says nothing.
    pub const UNTOLD: u8 = 2;
}

impl Default for CodePoints {
    fn default() -> Self {
        Self {
            primaries: Self::UNTOLD,
            transfer: Self::UNTOLD,
        }
    }
}

/// Converts rows of eight bits a sample to sRGB.
pub(crate) struct Bytes {
    /// What a row has to be.
    pub(crate) reads: Channels,
    executor: Arc<Transform8BitExecutor>,
}

/// Converts rows of RGB and alpha in sixteen bits a sample to sRGB; alpha stays.
pub(crate) struct Words {
    executor: Arc<Transform16BitExecutor>,
}

impl Colours {
    /// An embedded ICC profile. One that cannot be read counts for nothing, as in every browser.
    pub(crate) fn of_icc(bytes: Option<&[u8]>) -> Self {
        let profile = bytes.and_then(|bytes| ColorProfile::new_from_slice(bytes).ok());
        profile.map_or(Self::Srgb, |profile| Self::Profile(Box::new(profile)))
    }

    /// What code points mean; sRGB where they do not say it.
    pub(crate) fn of_code_points(points: CodePoints) -> Self {
        let transfer = match TransferCharacteristics::try_from(points.transfer) {
            Ok(TransferCharacteristics::Unspecified) | Err(_) => TransferCharacteristics::Srgb,
            // The curve of cameras, which nobody displays with: players, browsers and every
            // converter of still pictures take such files for sRGB.
            Ok(
                TransferCharacteristics::Bt709
                | TransferCharacteristics::Bt601
                | TransferCharacteristics::Bt202010bit
                | TransferCharacteristics::Bt202012bit,
            ) => TransferCharacteristics::Srgb,
            Ok(transfer) => transfer,
        };
        let primaries = CicpColorPrimaries::try_from(points.primaries);
        let Ok(primaries) = primaries else {
            return Self::Srgb;
        };
        // What these numbers do not define is left out of the profile, which then is none.
        let code_points = CicpProfile {
            color_primaries: primaries,
            transfer_characteristics: transfer,
            matrix_coefficients: MatrixCoefficients::Identity,
            full_range: true,
        };
        let profile = ColorProfile::new_from_cicp(code_points);
        match profile.red_trc {
            Some(_) => Self::Profile(Box::new(profile)),
            None => Self::Srgb,
        }
    }

    /// A profile that was put together from other metadata.
    pub(crate) fn of_profile(profile: ColorProfile) -> Self {
        Self::Profile(Box::new(profile))
    }

    /// The converter for such rows; `None` where there is nothing to convert.
    pub(crate) fn bytes(&self, channels: Channels) -> Result<Option<Bytes>, PictureProblem> {
        let Some((profile, reads)) = self.fitting(channels) else {
            return Ok(None);
        };
        let layout = match reads {
            Channels::Gray | Channels::GrayAlpha => Layout::Gray,
            Channels::Rgb => Layout::Rgb,
            // Four channels, whatever they mean.
            Channels::Rgba | Channels::Cmyk => Layout::Rgba,
        };
        let made = profile.create_transform_8bit(layout, &srgb(), Layout::Rgb, options());
        // As a profile that cannot be read at all.
        let Ok(executor) = made else {
            return Ok(None);
        };
        let bytes = Bytes { reads, executor };
        Ok((!bytes.changes_nothing()?).then_some(bytes))
    }

    /// The converter for rows of RGBA words; `None` where there is nothing to convert.
    ///
    /// Grey of a profile of grey is converted as the grey of RGB with the same curve.
    pub(crate) fn words(&self, channels: Channels) -> Option<Words> {
        let (profile, reads) = self.fitting(channels)?;
        let of_gray;
        let profile = match (reads, &profile.gray_trc) {
            (Channels::Gray, Some(curve)) => {
                let mut profile = srgb();
                profile.cicp = None;
                profile.red_trc = Some(curve.clone());
                profile.green_trc = Some(curve.clone());
                profile.blue_trc = Some(curve.clone());
                of_gray = profile;
                &of_gray
            }
            _ => profile,
        };
        let made = profile.create_transform_16bit(Layout::Rgba, &srgb(), Layout::Rgba, options());
        made.ok().map(|executor| Words { executor })
    }

    /// The profile, and the channels it reads, if it is one of a picture of such channels.
    fn fitting(&self, channels: Channels) -> Option<(&ColorProfile, Channels)> {
        let Self::Profile(profile) = self else {
            return None;
        };
        let reads = match (profile.color_space, channels) {
            (DataColorSpace::Gray, Channels::Gray | Channels::GrayAlpha) => Channels::Gray,
            (DataColorSpace::Cmyk, Channels::Cmyk) => Channels::Cmyk,
            (DataColorSpace::Rgb, Channels::Cmyk) => return None,
            (DataColorSpace::Rgb, _) => Channels::Rgb,
            _ => return None,
        };
        Some((profile, reads))
    }
}

impl Bytes {
    /// Converts `from`, of the channels it reads, to RGB.
    pub(crate) fn row(&self, from: &[u8], to: &mut [u8]) -> Result<(), PictureProblem> {
        self.executor.transform(from, to).map_err(unusable)
    }

    /// Whether it is sRGB by another name, as most profiles in files are: then every level stays.
    fn changes_nothing(&self) -> Result<bool, PictureProblem> {
        let steps = || (0..=u8::MAX).step_by(15);
        let from: Vec<u8> = match self.reads {
            Channels::Rgb => steps()
                .flat_map(|r| steps().flat_map(move |g| steps().flat_map(move |b| [r, g, b])))
                .collect(),
            Channels::Gray => (0..=u8::MAX).collect(),
            _ => return Ok(false),
        };
        let mut to = vec![0; from.len() / self.reads.count() * 3];
        self.row(&from, &mut to)?;
        let wanted: Vec<u8> = match self.reads {
            Channels::Gray => from.iter().flat_map(|&level| [level; 3]).collect(),
            _ => from,
        };
        let near = |(from, to): (&u8, &u8)| from.abs_diff(*to) <= 1;
        Ok(wanted.iter().zip(&to).all(near))
    }
}

impl Words {
    /// Converts `from` to `to`, both of red, green, blue and alpha.
    pub(crate) fn row(&self, from: &[u16], to: &mut [u16]) -> Result<(), PictureProblem> {
        self.executor.transform(from, to).map_err(unusable)
    }
}

fn srgb() -> ColorProfile {
    ColorProfile::new_srgb()
}

fn options() -> TransformOptions {
    TransformOptions::default()
}

fn unusable(error: moxcms::CmsError) -> PictureProblem {
    PictureProblem::Damaged(format!("its colour profile cannot be applied: {error}"))
}
