//! The order of input, plan and query slots, what each row sees, and where it stands.

use storyloom_nn::error::{ModelError, Result};
use tch::{Device, Kind, Tensor};

use super::{ImageTokens, IntraQuery};
use crate::language::PromptPositions;

/// What a row of the sequence is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowClass {
    /// A token of the input, be it of text or of a picture.
    Input,
    /// A token of the plan, `<img>` and `</img>` among them.
    Text,
    /// A query slot of a picture; pictures are counted from 0.
    Query(usize),
}

/// A sequence of input, plan and query slots.
///
/// Rows of input and text see those before them. A query slot sees the input, the text up to its `<img>`, the slots
/// of earlier pictures, and those of its own picture: all, or those before it. No row of text sees a slot.
///
/// Positions follow a clock that counts input and text alone: the slots of a picture go on after its `<img>`, and so
/// does its `</img>`. So the text stands where it would without slots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// Tokens of the input and of the plan.
    tokens: Vec<u32>,
    /// How many of them are input.
    input: usize,
    /// For each picture the number of tokens up to its `<img>`, this one among them.
    opened: Vec<usize>,
    num_queries: usize,
}

impl Layout {
    /// The layout of a plan after the tokens of an input, with `num_queries` slots for each picture.
    ///
    /// # Errors
    /// An `<img>` is not followed by its `</img>`, or a `</img>` stands alone.
    pub fn new(
        input: &[u32],
        plan: &[u32],
        image: ImageTokens,
        num_queries: usize,
    ) -> Result<Self> {
        let mut opened = Vec::new();
        for (place, &token) in plan.iter().enumerate() {
            let is_open = place > 0 && plan[place - 1] == image.open;
            if is_open != (token == image.close) {
                return Err(misplaced(place, image));
            }
            if token == image.open {
                opened.push(input.len() + place + 1);
            }
        }
        if plan.last() == Some(&image.open) {
            return Err(misplaced(plan.len(), image));
        }
        Ok(Self {
            tokens: [input, plan].concat(),
            input: input.len(),
            opened,
            num_queries,
        })
    }

    /// Tokens of input and plan, without slots.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Pictures of the plan.
    pub fn pictures(&self) -> usize {
        self.opened.len()
    }

    /// Slots of a picture.
    pub fn num_queries(&self) -> usize {
        self.num_queries
    }

    /// Rows in all.
    pub fn rows(&self) -> usize {
        self.tokens.len() + self.pictures() * self.num_queries
    }

    /// What each row is, in the order of the sequence.
    pub fn classes(&self) -> Vec<RowClass> {
        let mut classes = Vec::with_capacity(self.rows());
        let mut opened = self.opened.iter().copied().enumerate().peekable();
        for token in 0..self.tokens.len() {
            classes.push(match token < self.input {
                true => RowClass::Input,
                false => RowClass::Text,
            });
            if let Some((picture, _)) = opened.next_if(|(_, count)| *count == token + 1) {
                let slots = std::iter::repeat_n(RowClass::Query(picture), self.num_queries);
                classes.extend(slots);
            }
        }
        classes
    }

    /// Who sees whom in one pass over all rows, true or false, `[1, 1, rows, rows]` on the CPU.
    ///
    /// # Errors
    /// libtorch refuses.
    pub fn mask(&self, intra: IntraQuery) -> Result<Tensor> {
        let classes = self.classes();
        let count = classes.len();
        let mut allowed = Vec::with_capacity(count * count);
        for (from, &row) in classes.iter().enumerate() {
            let columns = classes.iter().enumerate();
            allowed.extend(columns.map(|(to, &column)| match (row, column) {
                (RowClass::Query(of), RowClass::Query(other)) if of == other => {
                    intra == IntraQuery::Full || to <= from
                }
                (RowClass::Query(of), RowClass::Query(other)) => other < of,
                (_, RowClass::Query(_)) => false,
                _ => to <= from,
            }));
        }
        let count = count as i64;
        Ok(Tensor::f_from_slice(&allowed)?.f_view([1, 1, count, count])?)
    }

    /// Who the slots of a picture see where the text comes first, and then the slots of one picture after the other:
    /// true or false, `[1, 1, queries, tokens + (picture + 1) * queries]` on the CPU.
    ///
    /// # Errors
    /// There is no such picture, or libtorch refuses.
    pub fn picture_mask(&self, picture: usize, intra: IntraQuery) -> Result<Tensor> {
        let opened = self.opened(picture)? as i64;
        let (queries, text) = (self.num_queries as i64, self.tokens.len() as i64);
        let earlier = picture as i64 * queries;
        let ones = |columns| Tensor::f_ones([queries, columns], (Kind::Bool, Device::Cpu));
        let hidden = Tensor::f_zeros([queries, text - opened], (Kind::Bool, Device::Cpu))?;
        let own = match intra {
            IntraQuery::Full => ones(queries)?,
            IntraQuery::Causal => ones(queries)?.f_tril(0)?,
        };
        let parts = [ones(opened)?, hidden, ones(earlier)?, own];
        let mask = Tensor::f_cat(&parts, 1)?;
        Ok(mask.f_view([1, 1, queries, text + earlier + queries])?)
    }

    /// Positions of the tokens of input and plan, i64 `[3, 1, tokens]`. `input` are those of the input: with pictures
    /// in it, its clock is not the number of its tokens.
    ///
    /// # Errors
    /// `input` is of another input.
    pub fn text_positions(&self, input: &PromptPositions) -> Result<Tensor> {
        self.check_input(input)?;
        let plan = 0..(self.tokens.len() - self.input) as i64;
        let plan = plan.map(|place| [input.next + place; 3]);
        table(input.tokens.iter().copied().chain(plan).collect())
    }

    /// Positions of the slots of a picture, i64 `[3, 1, queries]`.
    ///
    /// # Errors
    /// There is no such picture, or `input` is of another input.
    pub fn picture_positions(&self, picture: usize, input: &PromptPositions) -> Result<Tensor> {
        self.check_input(input)?;
        let first = input.next + (self.opened(picture)? - self.input) as i64;
        let slots = first..first + self.num_queries as i64;
        table(slots.map(|position| [position; 3]).collect())
    }

    /// Positions of all rows in the order of the sequence, i64 `[3, 1, rows]`.
    ///
    /// # Errors
    /// `input` is of another input.
    pub fn positions(&self, input: &PromptPositions) -> Result<Tensor> {
        let text = self.text_positions(input)?;
        self.interleave(&text, 2, |picture| self.picture_positions(picture, input))
    }

    /// The rows of input and plan, f32 `[1, tokens, width]`, with the slots of every picture between them:
    /// `[1, rows, width]`.
    ///
    /// # Errors
    /// They are not the rows of these tokens.
    pub fn sequence(&self, text: &Tensor, queries: &Tensor) -> Result<Tensor> {
        let slots = queries.f_unsqueeze(0)?;
        self.interleave(text, 1, |_| Ok(slots.shallow_clone()))
    }

    /// Along `axis` the parts of `text` between pictures, and behind each what `slots` has for it.
    fn interleave(
        &self,
        text: &Tensor,
        axis: i64,
        slots: impl Fn(usize) -> Result<Tensor>,
    ) -> Result<Tensor> {
        let mut parts = Vec::with_capacity(2 * self.pictures() + 1);
        let mut first = 0;
        for (picture, &opened) in self.opened.iter().enumerate() {
            parts.push(text.f_narrow(axis, first, opened as i64 - first)?);
            parts.push(slots(picture)?);
            first = opened as i64;
        }
        parts.push(text.f_narrow(axis, first, self.tokens.len() as i64 - first)?);
        Ok(Tensor::f_cat(&parts, axis)?)
    }

    /// The row of the first slot of each picture.
    pub(super) fn first_slots(&self) -> impl Iterator<Item = usize> {
        let opened = self.opened.iter().enumerate();
        opened.map(|(picture, opened)| opened + picture * self.num_queries)
    }

    /// The longest position and one.
    pub(super) fn end(&self, input: &PromptPositions) -> i64 {
        let of_text = self.tokens.len();
        let of_slots = self.opened.last().map_or(0, |last| last + self.num_queries);
        input.next + of_text.max(of_slots) as i64 - self.input as i64
    }

    fn opened(&self, picture: usize) -> Result<usize> {
        self.opened.get(picture).copied().ok_or_else(|| {
            let reason = format!("picture {picture} of {}", self.pictures());
            ModelError::input("plan", reason)
        })
    }

    fn check_input(&self, input: &PromptPositions) -> Result<()> {
        if input.tokens.len() == self.input {
            return Ok(());
        }
        let reason = format!(
            "positions of {} tokens for an input of {}",
            input.tokens.len(),
            self.input
        );
        Err(ModelError::input("plan", reason))
    }
}

/// i64 `[3, 1, rows]`.
fn table(positions: Vec<[i64; 3]>) -> Result<Tensor> {
    PromptPositions {
        tokens: positions,
        next: 0,
    }
    .tensor()
}

fn misplaced(place: usize, ImageTokens { open, close }: ImageTokens) -> ModelError {
    let reason = format!(
        "at token {place}: {open}, which opens a picture, and {close}, which closes it, must follow each other \
         without anything between them"
    );
    ModelError::input("plan", reason)
}
