//! What decides the numbers of StoryMem, as a digest.

use storyloom_models::sampler::{Reference, SamplerKind};
use storyloom_models::vision::clip::SelectionResize;
use storyloom_nn::lora::AdapterIdentity;

use super::settings::{DenoiseSettings, StoryMemSettings};
use crate::method::wan::kind_name;

/// Digest of everything that decides the numbers.
pub(super) fn fingerprint(
    settings: &StoryMemSettings,
    digests: &[(String, String)],
    adapters: &[(&str, AdapterIdentity)],
    quality_score: &str,
) -> String {
    let mut hasher = blake3::Hasher::new();
    for (name, digest) in digests {
        hasher.update(format!("{name}={digest}\n").as_bytes());
    }
    hasher.update(settings_text(settings, quality_score).as_bytes());
    for (name, adapter) in adapters {
        if let Some(scales) = &adapter.scales {
            hasher.update(format!("\nscales of {name}={scales}").as_bytes());
        }
    }
    // The first builds had no other, and their runs go on.
    if settings.selection_resize == SelectionResize::Torch {
        hasher.update(b"\nselection resize=torch");
    }
    hasher.finalize().to_hex().to_string()
}

/// The decisive settings as the first builds wrote them. Runs carry the digest of this text, so it is
/// a format of its own: the names in it are not those of today's types, and it never changes. A setting
/// that came later is a line of its own behind it, and only where it is not what the first builds did.
fn settings_text(settings: &StoryMemSettings, quality_score: &str) -> String {
    let phase = |settings: &DenoiseSettings| {
        let sampler = &settings.sampler;
        let solver = match sampler.kind {
            SamplerKind::UniPc => "UniPc",
            SamplerKind::DpmPlusPlus => "DpmPlusPlus",
            SamplerKind::Euler => "Euler",
        };
        let reference = match sampler.reference {
            Reference::Wan => "Wan",
            Reference::Diffusers => "Diffusers",
        };
        format!(
            "DenoiseSettings {{ sampler: SamplerSettings {{ kind: {solver}, reference: {reference}, \
             steps: {}, shift: {:?}, boundary: {} }}, guidance_high: {:?}, guidance_low: {:?} }}",
            sampler.steps,
            sampler.shift,
            optional(settings.boundary),
            settings.guidance_high,
            settings.guidance_low,
        )
    };
    format!(
        "({}, {}, {}, LoraSettings {{ alpha: {}, merge: {} }}, {}, {}, {quality_score:?})",
        kind_name(settings.compute.target.kind),
        phase(&settings.text_to_video),
        phase(&settings.image_to_video),
        optional(settings.lora.alpha),
        settings.lora.merge,
        settings.memory_stride,
        optional(settings.negative_prompt.as_ref()),
    )
}

/// `None` or `Some(value)`; numbers have a point, texts are quoted.
fn optional(value: Option<impl std::fmt::Debug>) -> String {
    value.map_or_else(|| "None".to_owned(), |value| format!("Some({value:?})"))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use storyloom_models::sampler::SamplerSettings;
    use storyloom_models::scorer::{AestheticHead, SharpnessExposure};
    use storyloom_nn::checkpoint::Target;
    use storyloom_nn::lora::LoraSettings;

    use tch::Kind;

    use super::*;
    use crate::method::wan::Compute;

    fn settings(selection_resize: SelectionResize) -> StoryMemSettings {
        let phase = |shift, boundary| DenoiseSettings {
            sampler: SamplerSettings {
                kind: SamplerKind::UniPc,
                reference: Reference::Wan,
                steps: 40,
                shift,
            },
            boundary: Some(boundary),
            guidance_high: 3.5,
            guidance_low: 3.5,
        };
        StoryMemSettings {
            compute: Compute {
                target: Target::CPU_F32,
                threads: None,
                share_decode: false,
                widen: true,
                collective_timeout: Duration::from_secs(300),
            },
            text_to_video: phase(12.0, 0.875),
            image_to_video: phase(4.0, 0.9),
            lora: LoraSettings {
                merge: true,
                ..LoraSettings::AS_FILES_SAY
            },
            memory_stride: 5,
            selection_resize,
            negative_prompt: None,
        }
    }

    fn digest(settings: &StoryMemSettings, quality_score: &str) -> String {
        let digests = [("clip".to_owned(), "0123".to_owned())];
        fingerprint(settings, &digests, &[], quality_score)
    }

    fn of(selection_resize: SelectionResize, quality_score: &str) -> String {
        digest(&settings(selection_resize), quality_score)
    }

    /// Every setting in another form than above: the text and the digest that the builds had which
    /// wrote it from their types.
    #[test]
    fn the_text_behind_a_fingerprint_is_a_format() {
        let mut others = settings(SelectionResize::Torch);
        others.compute.target.kind = Kind::BFloat16;
        others.text_to_video.sampler.kind = SamplerKind::DpmPlusPlus;
        others.text_to_video.boundary = None;
        others.text_to_video.guidance_high = 4.0;
        others.image_to_video.sampler.kind = SamplerKind::Euler;
        others.image_to_video.sampler.reference = Reference::Diffusers;
        others.image_to_video.sampler.steps = 8;
        others.image_to_video.sampler.shift = 1e-7;
        others.lora.alpha = Some(64.0);
        others.lora.merge = false;
        others.memory_stride = 1;
        others.negative_prompt =
            Some("a \"blurry\"\npicture, mauvaise qualit\u{e9} \u{4f4e}".to_owned());
        let text = settings_text(&others, "a score");
        assert_eq!(text, OTHERS);
        let digest = digest(&others, "a score");
        assert_eq!(
            digest,
            "9019e318392d59c811c555f6b8b7a283f08f961f772e8cdcd39aae3c08a24cea"
        );
    }

    const OTHERS: &str = "(BFloat16, DenoiseSettings { sampler: SamplerSettings { \
        kind: DpmPlusPlus, reference: Wan, steps: 40, shift: 12.0, boundary: None }, \
        guidance_high: 4.0, guidance_low: 3.5 }, DenoiseSettings { sampler: SamplerSettings { \
        kind: Euler, reference: Diffusers, steps: 8, shift: 1e-7, boundary: Some(0.9) }, \
        guidance_high: 3.5, guidance_low: 3.5 }, LoraSettings { alpha: Some(64.0), merge: false }, \
        1, Some(\"a \\\"blurry\\\"\\npicture, mauvaise qualit\u{e9} \u{4f4e}\"), \"a score\")";

    /// Runs of earlier builds, which knew Pillow's resize and the rule only, go on: the literal is
    /// theirs. Every other choice is another run.
    #[test]
    fn fingerprints_of_the_first_builds_stay() {
        let first = of(SelectionResize::Pillow, SharpnessExposure::NAME);
        assert_eq!(first, FIRST);
        let others = [
            of(SelectionResize::Torch, SharpnessExposure::NAME),
            of(SelectionResize::Pillow, AestheticHead::NAME),
            of(SelectionResize::Torch, AestheticHead::NAME),
        ];
        for (at, other) in others.iter().enumerate() {
            assert!(*other != first && !others[..at].contains(other), "{at}");
        }
    }

    const FIRST: &str = "29e2a98d1266c4867b931d73a4e4d8493e112ccc11ce807acb4b6711dbfe5566";
}
