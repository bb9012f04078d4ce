//! What decides the numbers of OneStory, as a digest.

use storyloom_models::onestory::ScoreNorm;
use storyloom_models::sampler::{Reference, SamplerKind};
use storyloom_nn::lora::AdapterIdentity;
use storyloom_story::onestory::{Budget, ContextTime, Selector};

use super::settings::{Backend, OneStorySettings};
use crate::method::fingerprint::{self, Decisive};
use crate::method::wan::kind_name;

/// Digest of everything that decides the numbers.
pub(super) fn fingerprint(
    settings: &OneStorySettings,
    digests: &[(String, String)],
    lora: Option<&AdapterIdentity>,
) -> String {
    fingerprint::fingerprint(digests, &decisive(settings, lora))
}

/// Digest of what decides the numbers where StoryMem makes what OneStory chooses.
pub(super) fn of_inject(storymem: &str, budget: Budget, selector: Selector) -> String {
    let parts = [("storymem".to_owned(), storymem.to_owned())];
    let mut all = Decisive::from([
        ("backend", Backend::StoryMemInject.name().to_owned()),
        ("budget", budget.units.to_string()),
        ("selector", selector_name(selector).to_owned()),
    ]);
    if let Some(counts) = budget.counts {
        all.insert("frames_per_kernel", format!("{:?}", counts.0));
    }
    fingerprint::fingerprint(&parts, &all)
}

/// The decisive settings by names that never change.
fn decisive(settings: &OneStorySettings, lora: Option<&AdapterIdentity>) -> Decisive {
    let sampler = &settings.sampler;
    let solver = match sampler.kind {
        SamplerKind::UniPc => "unipc",
        SamplerKind::DpmPlusPlus => "dpm++",
        SamplerKind::Euler => "euler",
    };
    let reference = match sampler.reference {
        Reference::Wan => "wan",
        Reference::Diffusers => "diffusers",
    };
    let mut all = Decisive::from([
        ("method", "onestory".to_owned()),
        ("kind", kind_name(settings.compute.target.kind).to_owned()),
        ("solver", solver.to_owned()),
        ("reference", reference.to_owned()),
        ("steps", sampler.steps.to_string()),
        ("shift", format!("{:?}", sampler.shift)),
        ("guidance", format!("{:?}", settings.guidance)),
        ("budget", settings.budget.units.to_string()),
        ("selector", selector_name(settings.selector).to_owned()),
        ("ctx_time", time_name(settings.time)),
        ("memory_source", settings.source.name().to_owned()),
    ]);
    if let Some(prompt) = &settings.negative_prompt {
        all.insert("negative_prompt", format!("{prompt:?}"));
    }
    if let Some(counts) = settings.budget.counts {
        all.insert("frames_per_kernel", format!("{:?}", counts.0));
    }
    if let Some(norm) = settings.score_norm {
        all.insert("score_norm", norm_name(norm).to_owned());
    }
    if settings.context_is_clean {
        all.insert("ctx_timestep", "zero".to_owned());
    }
    if settings.backend != Backend::OneStory {
        all.insert("backend", settings.backend.name().to_owned());
    }
    if let Some(lora) = lora {
        let alpha = settings.lora.alpha.map(|alpha| format!("{alpha:?}"));
        all.insert("lora.alpha", alpha.unwrap_or_default());
        all.insert("lora.merge", settings.lora.merge.to_string());
        all.insert("lora.scales", lora.scales.clone().unwrap_or_default());
    }
    all
}

fn selector_name(selector: Selector) -> &'static str {
    match selector {
        Selector::Learned => "learned",
        Selector::Recent => "recent",
        Selector::Uniform => "uniform",
        Selector::Clip => "clip",
    }
}

fn norm_name(norm: ScoreNorm) -> &'static str {
    match norm {
        ScoreNorm::Cosine => "cosine",
        ScoreNorm::ScaledDot => "scaled_dot",
        ScoreNorm::None => "none",
    }
}

fn time_name(time: ContextTime) -> String {
    match time {
        ContextTime::Shifted { stride } => format!("shifted {stride}"),
        ContextTime::TrueDistance => "true_distance".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use storyloom_story::onestory::Counts;

    use super::*;
    use crate::method::onestory::MemorySource;
    use crate::method::onestory::replicas_test::settings;

    fn digest(change: impl FnOnce(&mut OneStorySettings)) -> String {
        let mut settings = settings();
        change(&mut settings);
        fingerprint(&settings, &[("vae".to_owned(), "0123".to_owned())], None)
    }

    /// Records carry the digest: the literal is that of the first build that had the method.
    #[test]
    fn every_decisive_setting_is_another_run_and_the_first_one_stays() {
        let changes: [fn(&mut OneStorySettings); 15] = [
            |_| {},
            |settings| settings.sampler.kind = SamplerKind::Euler,
            |settings| settings.sampler.steps += 1,
            |settings| settings.sampler.shift = 1.0,
            |settings| settings.guidance = 1.0,
            |settings| settings.negative_prompt = Some(" ".to_owned()),
            |settings| settings.budget.units = 2,
            |settings| settings.budget.counts = Some(Counts([0, 1, 0, 0])),
            |settings| settings.selector = Selector::Recent,
            |settings| settings.score_norm = Some(ScoreNorm::ScaledDot),
            |settings| settings.time = ContextTime::TrueDistance,
            |settings| settings.context_is_clean = true,
            |settings| settings.source = MemorySource::Reencode,
            |settings| settings.backend = Backend::Wan14bUntrained,
            |settings| settings.backend = Backend::Wan13bFun,
        ];
        let digests = changes.map(digest);
        for (at, found) in digests.iter().enumerate() {
            assert!(!digests[..at].contains(found), "{at}");
        }
        assert_eq!(digests[0], FIRST);
    }

    const FIRST: &str = "773d396f7f5afd814fc626b10e7f7d2ba6cd14b9424667c3153244e9cae2c3af";
}
