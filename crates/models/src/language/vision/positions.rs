//! Where the tokens of a prompt with pictures stand (M-RoPE).

use storyloom_nn::error::{ModelError, Result};
use tch::Tensor;

use super::VisionConfig;

/// Positions of a prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PromptPositions {
    /// Time, row and column of every token.
    pub tokens: Vec<[i64; 3]>,
    /// Position of the token that follows, on all axes.
    pub next: i64,
}

impl PromptPositions {
    /// i64 `[3, 1, tokens]`.
    pub fn tensor(&self) -> Result<Tensor> {
        let flat: Vec<i64> = self.tokens.iter().flatten().copied().collect();
        let table = Tensor::f_from_slice(&flat)?.f_view([-1, 3])?;
        Ok(table.f_transpose(0, 1)?.f_unsqueeze(1)?.f_contiguous()?)
    }
}

/// Text goes on by one; the tokens of a picture of `grids` (frames, rows, columns of patches) have
/// the place of their cell, counted from where the picture starts, and what follows goes on after
/// its longer side.
///
/// # Errors
/// The number of tokens that stand for pictures is not that of the pictures.
pub fn prompt_positions(
    tokens: &[u32],
    grids: &[[i64; 3]],
    config: &VisionConfig,
) -> Result<PromptPositions> {
    let mut positions: Vec<[i64; 3]> = Vec::with_capacity(tokens.len());
    let mut grids = grids.iter();
    let mut next = 0;
    let mut at = 0;
    while let Some(&token) = tokens.get(at) {
        if token != config.image_token {
            positions.push([next; 3]);
            next += 1;
            at += 1;
            continue;
        }
        let wrong = |what: &str| ModelError::input("pictures of a prompt", what);
        let &grid = grids
            .next()
            .ok_or_else(|| wrong("more places than pictures"))?;
        let count = config.tokens(grid) as usize;
        let places = tokens.get(at..at + count);
        if count == 0 || !places.is_some_and(|all| all.iter().all(|&t| t == config.image_token)) {
            return Err(wrong(
                "a picture has another number of tokens than its place",
            ));
        }
        let [frames, rows, columns] = [grid[0], grid[1] / config.merge, grid[2] / config.merge];
        for frame in 0..frames {
            for row in 0..rows {
                for column in 0..columns {
                    positions.push([next + frame, next + row, next + column]);
                }
            }
        }
        next += rows.max(columns);
        at += count;
    }
    if grids.next().is_some() {
        return Err(ModelError::input(
            "pictures of a prompt",
            "more pictures than places",
        ));
    }
    let last = positions.iter().flatten().copied().max().unwrap_or(-1);
    Ok(PromptPositions {
        tokens: positions,
        next: last + 1,
    })
}
