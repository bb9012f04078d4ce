//! Layers that several networks share.
//!
//! Every layer is a struct of tensors, loaded from [`Weights`](crate::checkpoint::Weights) by the
//! names of the hub's files. Activations between layers are f32; a layer rounds its input once to
//! the kind it computes in. Where a layer is followed by one that rounds anyway, it may be told to
//! write that kind itself.

mod activation;
mod adapt;
mod attention;
mod conv;
mod conv2d;
mod few_rows;
pub mod fused;
mod group_norm;
mod joint;
mod linear;
mod norm;
mod parts;
mod rotary;
mod rows;
mod timestep;
mod token_vectors;

pub use activation::Activation;
pub use adapt::{Adaptable, LayerMut};
pub use attention::{
    AttentionChoice, BackEnd, RealTokens, ShapeClass, Trial, attend, attend_among, attend_causally,
    attention_choices, difference, merge_heads, repeat_heads, split_heads,
};
pub use conv::{
    CausalConv3d, StreamCache, channels_innermost, from_frames, last_frames, to_frames,
    with_history,
};
pub use conv2d::{Conv2d, double_nearest};
pub use few_rows::MOST_ROWS as MOST_FEW_ROWS;
pub use fused::{kernel_state, without_kernels};
pub use group_norm::GroupNorm;
pub use joint::{Stream, joint_heads, joint_values};
pub use linear::{Linear, LowRank};
pub use norm::{LayerNorm, RmsNorm, add_gated, layer_norm, modulated_layer_norm};
pub use parts::{Part, PartSeconds, measure_parts, timed};
pub use rotary::{RotaryAxes, RotaryTable};
pub use rows::{dot, exp, for_each_row, sum};
pub use timestep::{timestep_sinusoid, timestep_sinusoid_f32};
pub use token_vectors::{TokenIndex, TokenVectors};
