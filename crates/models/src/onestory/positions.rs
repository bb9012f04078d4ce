//! Where context tokens stand.

use storyloom_nn::error::Result;
use storyloom_story::onestory::{ChosenFrame, ContextTime, Kernel, Plane, cell_position};
use tch::Tensor;

/// Places of the context tokens of `chosen` in time, rows and columns, `[N_c, 3]` f64, in the order in which
/// [`Patchifiers`](super::Patchifiers) make the tokens. The history has `frames` latent frames of `plane`.
///
/// # Errors
/// libtorch refuses.
pub fn context_positions(
    chosen: &[ChosenFrame],
    frames: usize,
    plane: Plane,
    time: ContextTime,
) -> Result<Tensor> {
    let times = time.positions(chosen, frames);
    let mut places = Vec::new();
    for kernel in Kernel::ALL {
        let [rows, columns] = kernel.grid(plane);
        let of = chosen.iter().zip(&times);
        for (_, &time) in of.filter(|(chosen, _)| chosen.kernel == kernel) {
            for row in 0..rows {
                let row = cell_position(kernel, row);
                let columns = (0..columns).map(|column| cell_position(kernel, column));
                places.extend(columns.map(|column| [time, row, column]));
            }
        }
    }
    let count = places.len() as i64;
    Ok(Tensor::f_from_slice(places.as_flattened())?.f_view([count, 3])?)
}
