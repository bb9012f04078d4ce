//! Layers that several networks share.
//!
//! Every layer is a struct of tensors, loaded from [`Weights`](crate::checkpoint::Weights) by the
//! names of the hub's files. Activations between layers are f32; a layer rounds its input once to
//! the kind it computes in.

mod activation;
mod attention;
mod conv;
mod linear;
mod norm;
mod rotary;
mod rows;
mod timestep;

pub use activation::Activation;
pub use attention::{attend, merge_heads, split_heads};
pub use conv::{
    CausalConv3d, StreamCache, channels_innermost, from_frames, last_frames, to_frames,
    with_history,
};
pub use linear::{Linear, LowRank};
pub use norm::{LayerNorm, RmsNorm, TokenVectors, layer_norm, modulated_layer_norm};
pub use rotary::{RotaryAxes, RotaryTable};
pub use rows::{on_host, values, values_mut};
pub use timestep::timestep_sinusoid;
