//! Hidden states of the query slots.

use storyloom_nn::error::{ModelError, Result};
use tch::{Kind, Tensor};

use super::{Layout, QueryRows};
use crate::language::passes::Passes;
use crate::language::{
    CacheSlots, Decoder, ForwardArgs, Input, LanguageModel, Prompt, PromptPositions,
    prompt_positions,
};

/// The rows of input and plan, before the first block.
#[derive(Debug, Clone, Copy)]
pub struct TextRows<'a> {
    /// f32 `[1, tokens, width]`, with what is seen of pictures in its places.
    pub embedded: &'a Tensor,
    /// Where the input stands.
    pub input: &'a PromptPositions,
}

/// The last hidden states of the slots of every picture, each f32 `[queries, width]`: first the text goes through the
/// model, then the slots of one picture after the other behind it. What is computed is what
/// [one pass](states_in_one_pass) computes, in far less memory for long plans.
///
/// All ranks that share the decoder call it with the same arguments.
///
/// # Errors
/// The rows do not belong to the layout or the decoder, or the plan is longer than the model can count.
pub fn query_states(
    decoder: &Decoder,
    layout: &Layout,
    queries: &QueryRows,
    text: TextRows,
) -> Result<Vec<Tensor>> {
    check(decoder, layout, queries, text.input)?;
    let mut cache = decoder.cache(1)?;
    let mut forward = |rows: &Tensor, positions: &Tensor, mask: Option<&Tensor>| {
        decoder.forward(ForwardArgs {
            input: Input::Embeddings(rows),
            positions: Some(&of_axes(decoder, positions)?),
            mask,
            cache: Some(CacheSlots {
                cache: &mut cache,
                slots: &[0],
            }),
        })
    };
    drop(forward(
        text.embedded,
        &layout.text_positions(text.input)?,
        None,
    )?);
    of_pictures(layout, queries, text.input, |rows, positions, mask| {
        forward(rows, positions, Some(mask))
    })
}

/// The slots of one picture after the other through `forward`, which takes rows `[1, queries, width]`, positions
/// `[3, 1, queries]` and a mask of what they see of everything before.
fn of_pictures(
    layout: &Layout,
    queries: &QueryRows,
    input: &PromptPositions,
    mut forward: impl FnMut(&Tensor, &Tensor, &Tensor) -> Result<Tensor>,
) -> Result<Vec<Tensor>> {
    let rows = queries.rows.f_unsqueeze(0)?;
    let states = (0..layout.pictures()).map(|picture| {
        let positions = layout.picture_positions(picture, input)?;
        let mask = layout.picture_mask(picture, queries.config.intra_query)?;
        let states = forward(&rows, &positions, &mask)?;
        Ok(states.f_squeeze_dim(0)?.f_to_kind(Kind::Float)?)
    });
    states.collect()
}

/// The hidden states of all rows in one pass over the whole sequence, f32 `[1, rows, width]`, and those of the slots
/// among them, as [`query_states`] has them. Nothing is cached, so gradients go through it; the mask has as many
/// values as rows times rows.
///
/// All ranks that share the decoder call it with the same arguments.
///
/// # Errors
/// As [`query_states`].
pub fn states_in_one_pass(
    decoder: &Decoder,
    layout: &Layout,
    queries: &QueryRows,
    text: TextRows,
) -> Result<(Tensor, Vec<Tensor>)> {
    check(decoder, layout, queries, text.input)?;
    let sequence = layout.sequence(text.embedded, &queries.rows)?;
    let positions = layout.positions(text.input)?;
    let hidden = decoder.forward(ForwardArgs {
        input: Input::Embeddings(&sequence),
        positions: Some(&of_axes(decoder, &positions)?),
        mask: Some(&layout.mask(queries.config.intra_query)?),
        cache: None,
    })?;
    let length = layout.num_queries() as i64;
    let states = layout.first_slots().map(|first| {
        let states = hidden.f_narrow(1, first as i64, length)?;
        Ok(states.f_squeeze_dim(0)?)
    });
    let states = states.collect::<Result<Vec<_>>>()?;
    Ok((hidden, states))
}

impl LanguageModel {
    /// The last hidden states of the query slots of every picture of `plan`, the tokens that the model has answered
    /// the prompt with: f32 `[queries, width]` each.
    ///
    /// Where ranks share the model, the first one calls it and the others [follow](LanguageModel::follow).
    ///
    /// # Errors
    /// The plan is not closed, is longer than the model can count, or the rows are of another model.
    pub fn query_states(
        &self,
        prompt: &Prompt,
        plan: &[u32],
        queries: &QueryRows,
    ) -> Result<Vec<Tensor>> {
        let config = &queries.config;
        let count = config.num_queries as usize;
        let layout = Layout::new(&prompt.tokens, plan, config.image_tokens, count)?;
        let input = self.positions(prompt)?;
        check(self.decoder(), &layout, queries, &input)?;
        let mut passes = Passes::begin(self, 1)?;
        drop(passes.prefill(0, layout.tokens(), &prompt.images)?);
        of_pictures(&layout, queries, &input, |rows, positions, mask| {
            passes.append(0, rows, &of_axes(self.decoder(), positions)?, mask)
        })
    }

    /// Where the tokens of a prompt stand.
    fn positions(&self, prompt: &Prompt) -> Result<PromptPositions> {
        let Some(vision) = &self.config().vision else {
            let count = prompt.tokens.len() as i64;
            return Ok(PromptPositions {
                tokens: (0..count).map(|place| [place; 3]).collect(),
                next: count,
            });
        };
        let grids: Vec<_> = prompt.images.iter().map(|image| image.grid).collect();
        prompt_positions(&prompt.tokens, &grids, vision)
    }
}

/// Positions on three equal axes, as a decoder takes them that may have one.
fn of_axes(decoder: &Decoder, positions: &Tensor) -> Result<Tensor> {
    Ok(positions.f_narrow(0, 0, decoder.config().rotary.axes())?)
}

fn check(
    decoder: &Decoder,
    layout: &Layout,
    queries: &QueryRows,
    input: &PromptPositions,
) -> Result<()> {
    let config = decoder.config();
    let wanted = [layout.num_queries() as i64, config.hidden_size];
    if queries.rows.size() != wanted {
        let reason = format!("{wanted:?} is needed, found {:?}", queries.rows.size());
        return Err(ModelError::input("queries", reason));
    }
    let end = layout.end(input);
    if end > config.max_positions {
        let reason = format!(
            "it ends at position {end}, and the model counts to {}",
            config.max_positions
        );
        return Err(ModelError::input("plan", reason));
    }
    Ok(())
}
