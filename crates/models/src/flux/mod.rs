//! The image transformer of FLUX.1 (dev, schnell, Kontext), and what stands around it: how latents become
//! tokens, where tokens stand, and which sizes pictures have (specification `flux`).

mod block;
mod config;
mod embed;
mod modulation;
mod packing;
mod positions;
mod sampling;
mod sizes;
mod transformer;
mod variant;

pub use config::FluxConfig;
pub use modulation::{Modulations, StepModulation};
pub use packing::{pack, unpack};
pub use positions::FluxPositions;
pub use sampling::{FluxCondition, FluxGuidance, FluxPicture, FluxSampler, flux_noise};
pub use sizes::{PREFERRED_SIZES, condition_size, output_size};
pub use transformer::{FluxContext, FluxInputs, FluxTransformer};
pub use variant::FluxVariant;

#[cfg(test)]
mod files_test;
#[cfg(test)]
mod pipeline_test;
#[cfg(test)]
pub(crate) mod vectors_test;
