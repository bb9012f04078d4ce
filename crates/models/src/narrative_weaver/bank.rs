//! The bank of packed latents, pooled when it is read.

use std::collections::VecDeque;

use storyloom_nn::error::{ModelError, Result};
use storyloom_story::narrative_weaver::{BankLevels, Level, Pooling, TokenGrid};
use tch::{Kind, Tensor};

use super::ContextKind;

/// The tokens of a picture, `[rows * columns, channels]` of `grid`, as those of a level: f32 `[tokens, channels]`.
/// Cells are means, as adaptive average pooling of libtorch has them; where sides do not divide they overlap. The
/// newest picture keeps its values as they are. No collective.
///
/// # Errors
/// The picture has another number of tokens, or libtorch refuses.
pub fn pool(picture: &Tensor, grid: TokenGrid, level: Level) -> Result<Tensor> {
    let [rows, columns] = grid.map(i64::from);
    let size = picture.size();
    if size.len() != 2 || size[0] != rows * columns {
        let reason = format!("[{}, channels] is needed, found {size:?}", rows * columns);
        return Err(ModelError::input("picture of the memory", reason));
    }
    let picture = picture.f_to_kind(Kind::Float)?;
    let planes = picture.f_transpose(0, 1)?;
    let pooled = match level.pooling {
        Pooling::Grid { grid: to } if to == grid => return Ok(picture),
        Pooling::Line { tokens } if tokens as i64 == size[0] => return Ok(picture),
        Pooling::Grid { grid: to } => {
            let planes = planes.f_reshape([size[1], rows, columns])?;
            let pooled = planes.f_adaptive_avg_pool2d(to.map(i64::from))?;
            pooled.f_flatten(1, 2)?
        }
        Pooling::Line { tokens } => planes
            .f_contiguous()?
            .f_adaptive_avg_pool1d(tokens as i64)?,
    };
    Ok(pooled.f_transpose(0, 1)?.f_contiguous()?)
}

/// The latents of the newest pictures of a story, whole, and of its condition image, which never leaves.
#[derive(Debug)]
pub struct MemoryBank {
    levels: BankLevels,
    condition: Option<Tensor>,
    /// The newest first.
    pictures: VecDeque<Tensor>,
}

/// What a picture sees, as tokens of the image stream behind its own.
#[derive(Debug)]
pub struct Context {
    /// f32 `[tokens, channels]`: the condition image, and the earlier pictures from the newest to the oldest. `None`
    /// if there is nothing to see.
    pub tokens: Option<Tensor>,
    /// Where each of them stands: axis 0, row, column.
    pub ids: Vec<[f64; 3]>,
    /// What they are, in their order, and how many of each.
    pub kinds: Vec<(ContextKind, usize)>,
}

impl MemoryBank {
    /// The bank of a story that has not begun. `condition` is its condition image, packed latents
    /// `[rows * columns, channels]` of the size of its pictures.
    ///
    /// # Errors
    /// The condition image has another number of tokens.
    pub fn new(levels: BankLevels, condition: Option<Tensor>) -> Result<Self> {
        let bank = Self {
            levels,
            condition: None,
            pictures: VecDeque::new(),
        };
        if let Some(condition) = &condition {
            bank.check(condition)?;
        }
        Ok(Self { condition, ..bank })
    }

    /// How it is pooled.
    pub fn levels(&self) -> &BankLevels {
        &self.levels
    }

    /// The condition image.
    pub fn condition(&self) -> Option<&Tensor> {
        self.condition.as_ref()
    }

    /// The pictures it holds, whole, the newest first.
    pub fn pictures(&self) -> impl Iterator<Item = &Tensor> {
        self.pictures.iter()
    }

    /// Takes the picture that was made last, packed latents `[rows * columns, channels]`; the oldest leaves where
    /// there are more than are remembered.
    ///
    /// # Errors
    /// It has another number of tokens.
    pub fn push(&mut self, picture: Tensor) -> Result<()> {
        self.check(&picture)?;
        self.pictures.push_front(picture);
        self.pictures.truncate(self.levels.all().len());
        Ok(())
    }

    fn check(&self, picture: &Tensor) -> Result<()> {
        let [rows, columns] = self.levels.grid().map(i64::from);
        let size = picture.size();
        let known = self.pictures.front().or(self.condition.as_ref());
        let channels = known.and_then(|known| known.size().get(1).copied());
        match size[..] {
            [tokens, found]
                if tokens == rows * columns && channels.is_none_or(|of| of == found) =>
            {
                Ok(())
            }
            _ => {
                let reason = format!(
                    "{} tokens of the channels of the others are needed, found {size:?}",
                    rows * columns
                );
                Err(ModelError::input("picture of the memory", reason))
            }
        }
    }

    /// What the next picture sees. Pooled anew each time from the whole latents: means of means would be others
    /// where sides do not divide.
    ///
    /// # Errors
    /// libtorch refuses.
    pub fn context(&self) -> Result<Context> {
        let number = self.pictures.len() as u32 + 1;
        let levels = self.levels.of_picture(number);
        let grid = self.levels.grid();
        let mut tokens = Vec::new();
        let mut kinds = Vec::new();
        if let Some(condition) = &self.condition {
            tokens.push(condition.f_to_kind(Kind::Float)?);
            kinds.push(ContextKind::Condition);
        }
        for (picture, level) in self.pictures.iter().zip(levels) {
            tokens.push(pool(picture, grid, *level)?);
            kinds.push(ContextKind::Memory { age: level.age });
        }
        let counts = tokens.iter().map(|tokens| tokens.size()[0] as usize);
        let kinds = kinds.into_iter().zip(counts).collect();
        let ids = self.levels.stream_ids(number, self.condition.is_some());
        let own = grid[0] as usize * grid[1] as usize;
        Ok(Context {
            ids: ids[own..].to_vec(),
            kinds,
            tokens: match tokens.is_empty() {
                true => None,
                false => Some(Tensor::f_cat(&tokens, 0)?),
            },
        })
    }
}
