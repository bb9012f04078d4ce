//! Running one module of a checkpoint on given tensors, for comparing it with the reference.
//!
//! Inputs have the argument names of the reference classes of diffusers and transformers; the
//! result is called `output`.

mod flux;

use std::collections::BTreeMap;
use std::path::Path;

use storyloom_nn::checkpoint::{Checkpoint, SingleFilePart, Target, component_folder};
use storyloom_nn::error::{ModelError, Result};
use storyloom_nn::tensor_file::{read_tensors, write_tensors};
use storyloom_story::onestory::{ContextTime, Counts, choose};
use tch::{Kind, Tensor};

use crate::autoencoder::{AutoencoderKl, AutoencoderKlWan};
use crate::flux::FluxConfig;
use crate::language::queries::Projector;
use crate::language::{
    Decoder, ForwardArgs, ImagePatches, Input, LanguageSettings, VisionTower, embed_with_pictures,
    open_networks, prompt_positions,
};
use crate::onestory::{FOLDER, OneStoryMemory, context_positions};
use crate::text::T5Encoder;
use crate::text::clip::ClipText;
use crate::vision::clip::ClipVision;
use crate::vision::dino::{DinoConfig, DinoVision};
use crate::wan::{ForwardInputs, WanTransformer};

/// Names of modules: what is run, and the folder of the component it belongs to.
pub const MODULES: [&str; 11] = [
    "transformer",
    "transformer_2",
    "vae.encode",
    "vae.decode",
    "text_encoder",
    "text_encoder_2",
    "image_encoder",
    "language_model",
    "selector",
    "conditioner",
    "projector",
];

/// Runs `module` of the checkpoint `model` on the tensors of the file `input` and writes the file
/// `output`.
///
/// `model` is a pipeline folder, the folder of the component itself, or a single file of FLUX. Weights are held in the
/// kind of `target`; the result is f32.
///
/// # Errors
/// An unknown module, a checkpoint of another class, an input that is missing, unknown or of the
/// wrong shape, and files that cannot be read or written.
pub fn forward_file(
    model: &Path,
    module: &str,
    target: Target,
    input: &Path,
    output: &Path,
) -> Result<()> {
    let inputs = Inputs::new(read_tensors(input)?, input, target);
    let results = forward(model, module, target, &inputs)?;
    let named: Vec<(&str, &Tensor)> = results.iter().map(|(name, value)| (*name, value)).collect();
    write_tensors(output, &named)
}

/// The results of a module by name; the first is `output`.
type Results = Vec<(&'static str, Tensor)>;

fn forward(model: &Path, module: &str, target: Target, inputs: &Inputs) -> Result<Results> {
    let component = match module {
        "selector" | "conditioner" => FOLDER,
        _ => module.split('.').next().unwrap_or(module),
    };
    let inside = component_folder(model, component);
    let folder = match inside.is_dir() {
        true => inside,
        false => model.to_owned(),
    };
    match module {
        "transformer" | "transformer_2" => match class(&folder).as_deref() {
            Some(FluxConfig::CLASS) => flux::transformer(&folder, target, inputs),
            _ => transformer(&folder, target, inputs),
        },
        "vae.encode" => encode(&folder, target, inputs),
        "vae.decode" => decode(&folder, target, inputs),
        "text_encoder" => text_encoder(&folder, SingleFilePart::ClipText, target, inputs),
        "text_encoder_2" => text_encoder(&folder, SingleFilePart::T5Encoder, target, inputs),
        "image_encoder" => image_encoder(&folder, target, inputs),
        "language_model" => language_model(&folder, target, inputs),
        "selector" => selector(&folder, target, inputs),
        "conditioner" => conditioner(&folder, target, inputs),
        "projector" => projector(&folder, target, inputs),
        other => {
            let reason = format!("there is no {other:?}; there are {}", MODULES.join(", "));
            Err(ModelError::input("module", reason))
        }
    }
}

/// The class that the config of a transformer names, of a single file that of its transformer; what cannot be read is
/// told by who opens it.
fn class(folder: &Path) -> Option<String> {
    if folder.is_file() {
        let parts = Checkpoint::parts_of_single_file(folder).ok()?;
        let has = parts.contains(&SingleFilePart::FluxTransformer);
        return has.then(|| FluxConfig::CLASS.to_owned());
    }
    let config = Checkpoint::of_config(&folder.join("config.json")).ok()?;
    config.class_name().map(str::to_owned)
}

/// What the names of the shots of a history begin with.
const HISTORY: &str = "history.";

/// The tensors of an input file.
struct Inputs<'a> {
    tensors: BTreeMap<String, Tensor>,
    path: &'a Path,
    target: Target,
}

impl<'a> Inputs<'a> {
    fn new(tensors: BTreeMap<String, Tensor>, path: &'a Path, target: Target) -> Self {
        Self {
            tensors,
            path,
            target,
        }
    }

    /// Fails for a tensor that is not one of `known`. Results stored beside the inputs, as in the
    /// golden files, are left aside.
    fn expect(&self, known: &[&str]) -> Result<()> {
        let stored = |name: &&String| !name.starts_with("output");
        let unknown = self.tensors.keys().filter(stored);
        match unknown
            .into_iter()
            .find(|name| !known.contains(&name.as_str()))
        {
            None => Ok(()),
            Some(name) => {
                let reason = format!("{name} is no input; the inputs are {}", known.join(", "));
                Err(ModelError::bad_file(self.path, reason))
            }
        }
    }

    /// The shots of a history, `history.0`, `history.1`, …, oldest first, on the device.
    fn history(&self) -> Result<Vec<Tensor>> {
        let shots = (0..).map_while(|shot| self.get(&format!("{HISTORY}{shot}")).transpose());
        let shots = shots.collect::<Result<Vec<_>>>()?;
        match shots.is_empty() {
            false => Ok(shots),
            true => self.require(&format!("{HISTORY}0")).map(|_| shots),
        }
    }

    /// As [`expect`](Self::expect), where the shots of a history are known too.
    fn expect_history(&self, known: &[&str]) -> Result<()> {
        let shots: Vec<String> = (0..self.tensors.len())
            .map(|shot| format!("{HISTORY}{shot}"))
            .collect();
        let shots = shots.iter().map(String::as_str);
        self.expect(&known.iter().copied().chain(shots).collect::<Vec<_>>())
    }

    /// The tensor `name` on the device.
    fn get(&self, name: &str) -> Result<Option<Tensor>> {
        let tensor = self.tensors.get(name);
        let moved = tensor.map(|tensor| tensor.f_to_device(self.target.device));
        Ok(moved.transpose()?)
    }

    fn require(&self, name: &str) -> Result<Tensor> {
        self.get(name)?.ok_or_else(|| {
            let reason = format!("the input {name} is missing");
            ModelError::bad_file(self.path, reason)
        })
    }
}

fn transformer(folder: &Path, target: Target, inputs: &Inputs) -> Result<Results> {
    inputs.expect(&[
        "hidden_states",
        "timestep",
        "encoder_hidden_states",
        "encoder_hidden_states_image",
        "temporal_positions",
    ])?;
    let hidden_states = inputs.require("hidden_states")?;
    let timestep = inputs.require("timestep")?;
    let text = inputs.require("encoder_hidden_states")?;
    let image = inputs.get("encoder_hidden_states_image")?;
    let positions = inputs.get("temporal_positions")?;
    let positions = positions.map(|tensor| integers(&tensor)).transpose()?;
    let model = WanTransformer::open(folder, target)?;
    let context = model.prepare_context(&text, image.as_ref())?;
    let inputs = ForwardInputs {
        hidden_states: &hidden_states,
        timestep: &timestep,
        temporal_positions: positions.as_deref(),
        appended: None,
    };
    Ok(vec![("output", model.forward(&inputs, &context)?)])
}

fn integers(tensor: &Tensor) -> Result<Vec<i64>> {
    let flat = tensor.f_to_kind(Kind::Int64)?.f_flatten(0, -1)?;
    Ok(Vec::try_from(&flat)?)
}

/// Whether a folder has the autoencoder of pictures; that of clips has another class.
fn is_of_pictures(folder: &Path) -> Result<bool> {
    let checkpoint = Checkpoint::open_part(folder, SingleFilePart::FluxAutoencoder)?;
    Ok(checkpoint.class_name() == Some("AutoencoderKL"))
}

/// `output` is the mode of the posterior, not normalised.
fn encode(folder: &Path, target: Target, inputs: &Inputs) -> Result<Results> {
    inputs.expect(&["sample"])?;
    let sample = inputs.require("sample")?;
    let output = if is_of_pictures(folder)? {
        AutoencoderKl::open(folder, target)?.encode(&sample)?
    } else {
        let model = AutoencoderKlWan::open(folder, target.device)?;
        each_of_batch("sample", &sample, |clip| model.encode(clip))?
    };
    Ok(vec![("output", output)])
}

/// `output` is the pixels of latents that are not normalised.
fn decode(folder: &Path, target: Target, inputs: &Inputs) -> Result<Results> {
    inputs.expect(&["latents"])?;
    let latents = inputs.require("latents")?;
    let output = if is_of_pictures(folder)? {
        AutoencoderKl::open(folder, target)?.decode(&latents)?
    } else {
        let model = AutoencoderKlWan::open(folder, target.device)?;
        each_of_batch("latents", &latents, |clip| model.decode(clip))?
    };
    Ok(vec![("output", output)])
}

/// The autoencoder takes one clip at a time.
fn each_of_batch(
    name: &str,
    batch: &Tensor,
    run: impl Fn(&Tensor) -> Result<Tensor>,
) -> Result<Tensor> {
    let size = batch.size();
    if size.len() != 5 || size[0] < 1 {
        let reason = format!("[batch, channels, frames, height, width] is needed, found {size:?}");
        return Err(ModelError::input(name, reason));
    }
    let results = (0..size[0]).map(|index| run(&batch.f_narrow(0, index, 1)?));
    Ok(Tensor::f_cat(&results.collect::<Result<Vec<_>>>()?, 0)?)
}

/// A text encoder by the class that its config names; of a single file `part`.
fn text_encoder(
    folder: &Path,
    part: SingleFilePart,
    target: Target,
    inputs: &Inputs,
) -> Result<Results> {
    match Checkpoint::open_part(folder, part)?.class_name() {
        Some("CLIPTextModel" | "CLIPTextModelWithProjection" | "CLIPModel") => {
            clip_text(folder, target, inputs)
        }
        _ => t5(folder, target, inputs),
    }
}

/// `output` is the first output of the reference class: the projected embedding where there is a
/// projection, else the last hidden states. All others are there too.
fn clip_text(folder: &Path, target: Target, inputs: &Inputs) -> Result<Results> {
    inputs.expect(&["input_ids", "last_hidden_state", "penultimate", "pooled"])?;
    let result = ClipText::open(folder, target)?.forward(&inputs.require("input_ids")?)?;
    let states = [result.last_hidden_state, result.penultimate, result.pooled];
    Ok(of_clip(result.text_embeds, states))
}

/// What a tower of CLIP gives: the projected `embeds`, if there is a projection, and the last hidden states, those
/// before the last layer and the pooled ones.
fn of_clip(embeds: Option<Tensor>, [last, penultimate, pooled]: [Tensor; 3]) -> Results {
    vec![
        ("output", embeds.unwrap_or_else(|| last.shallow_clone())),
        ("last_hidden_state", last),
        ("penultimate", penultimate),
        ("pooled", pooled),
    ]
}

/// T5 or UMT5.
fn t5(folder: &Path, target: Target, inputs: &Inputs) -> Result<Results> {
    inputs.expect(&["input_ids", "attention_mask"])?;
    let input_ids = inputs.require("input_ids")?;
    let mask = inputs.get("attention_mask")?;
    let model = T5Encoder::open(folder, target)?;
    Ok(vec![("output", model.forward(&input_ids, mask.as_ref())?)])
}

/// `output` is the first output of the reference class: of CLIP the projected embedding where there is a
/// projection, else the last hidden states, and those of DINOv2. All others are there too.
fn image_encoder(folder: &Path, target: Target, inputs: &Inputs) -> Result<Results> {
    inputs.expect(&["pixel_values", "last_hidden_state", "penultimate", "pooled"])?;
    let pixel_values = inputs.require("pixel_values")?;
    if Checkpoint::open(folder)?.class_name() == Some(DinoConfig::CLASS) {
        let result = DinoVision::open(folder, target)?.forward(&pixel_values)?;
        return Ok(vec![
            ("output", result.last_hidden_state),
            ("pooled", result.pooled),
        ]);
    }
    let result = ClipVision::open(folder, target)?.forward(&pixel_values)?;
    let states = [result.last_hidden_state, result.penultimate, result.pooled];
    Ok(of_clip(result.image_embeds, states))
}

/// `output` is the scores of all tokens; the hidden states they come from are there too. Pictures are
/// for one prompt at a time. In place of tokens there may be `inputs_embeds`; `attention_mask`
/// `[1, 1, tokens, tokens]` and `position_ids` `[axes, batch, tokens]` are who sees whom, and where.
fn language_model(folder: &Path, target: Target, inputs: &Inputs) -> Result<Results> {
    inputs.expect(&[
        "input_ids",
        "inputs_embeds",
        "attention_mask",
        "position_ids",
        "pixel_values",
        "image_grid_thw",
    ])?;
    let settings = LanguageSettings {
        device: target.device,
        kind: target.kind,
        ..LanguageSettings::default()
    };
    let (decoder, tower) = open_networks(folder, &settings)?;
    let (embedded, positions) = match inputs.get("inputs_embeds")? {
        Some(rows)
            if inputs.tensors.contains_key("input_ids")
                || inputs.tensors.contains_key("pixel_values") =>
        {
            let reason = format!(
                "{:?} stand in place of input_ids and pixel_values",
                rows.size()
            );
            return Err(ModelError::input("inputs_embeds", reason));
        }
        Some(rows) => (rows, None),
        None => embedded(&decoder, tower.as_ref(), inputs)?,
    };
    let given = inputs.get("position_ids")?;
    let hidden = decoder.forward(ForwardArgs {
        input: Input::Embeddings(&embedded),
        positions: given.as_ref().or(positions.as_ref()),
        mask: inputs.get("attention_mask")?.as_ref(),
        cache: None,
    })?;
    Ok(vec![
        ("output", decoder.logits(&hidden)?),
        ("hidden_states", hidden),
    ])
}

/// The rows of tokens and pictures, and where they stand if that is not one after the other.
fn embedded(
    decoder: &Decoder,
    tower: Option<&VisionTower>,
    inputs: &Inputs,
) -> Result<(Tensor, Option<Tensor>)> {
    let tokens = inputs.require("input_ids")?.f_to_kind(Kind::Int64)?;
    match (inputs.get("pixel_values")?, tower) {
        (Some(pixels), Some(tower)) => {
            let grids = integers(&inputs.require("image_grid_thw")?)?;
            let grids: Vec<[i64; 3]> = grids.as_chunks().0.to_vec();
            let images = ImagePatches::split(&pixels, &grids)?;
            let ids: Vec<u32> = integers(&tokens)?.iter().map(|&id| id as u32).collect();
            let positions = prompt_positions(&ids, &grids, tower.config())?.tensor()?;
            let embedded = embed_with_pictures(decoder, Some(tower), &ids, &images)?;
            Ok((embedded, Some(positions)))
        }
        (None, _) => Ok((decoder.embed(&tokens)?, None)),
        (Some(_), None) => {
            let reason = "this model does not see pictures";
            Err(ModelError::input("pixel_values", reason))
        }
    }
}

/// `output` is the text rows `[batch, queries, text_width]` of `query_states` `[batch, queries, width]`; the pooled
/// vector is there too.
fn projector(folder: &Path, target: Target, inputs: &Inputs) -> Result<Results> {
    inputs.expect(&["query_states"])?;
    let states = inputs.require("query_states")?;
    let projected = Projector::open(folder, target)?.forward(&states)?;
    Ok(vec![
        ("output", projected.text),
        ("pooled", projected.pooled),
    ])
}

/// `output` is the scores `[batch, F]` of the history by captions.
fn selector(folder: &Path, target: Target, inputs: &Inputs) -> Result<Results> {
    inputs.expect_history(&["encoder_hidden_states"])?;
    let text = inputs.require("encoder_hidden_states")?;
    let memory = OneStoryMemory::open(folder, target)?;
    let scores = memory.selector.forward(&text, &inputs.history()?)?;
    Ok(vec![("output", scores)])
}

/// `output` is the context tokens `[1, N_c, width]` of the frames that follow from `scores` `[F]` and `counts`
/// `[4]`, frames per kernel from the finest to the coarsest; `positions` `[N_c, 3]` f64 is where they stand. The
/// shots of the history are `[1, C, T, h, w]`.
fn conditioner(folder: &Path, target: Target, inputs: &Inputs) -> Result<Results> {
    inputs.expect_history(&["scores", "counts"])?;
    let scores = inputs.require("scores")?.f_flatten(0, -1)?;
    let scores = Vec::<f32>::try_from(&scores.f_to_kind(Kind::Float)?)?;
    let counts = integers(&inputs.require("counts")?)?;
    let wrong = |reason: String| ModelError::bad_file(inputs.path, reason);
    let counts: Vec<u32> = counts.into_iter().flat_map(u32::try_from).collect();
    let counts = <[u32; 4]>::try_from(counts)
        .map_err(|_| wrong("counts are four numbers of frames".to_owned()))?;
    let frames = Tensor::f_cat(&inputs.history()?, 2)?;
    let (_, _, all, height, width) = frames.size5()?;
    if all as usize != scores.len() {
        let reason = format!(
            "the history has {all} frames, and there are {} scores",
            scores.len()
        );
        return Err(wrong(reason));
    }
    let chosen = choose(&scores, Counts(counts));
    let latents = chosen.iter().map(|seen| {
        let frame = frames.f_select(2, seen.frame as i64)?;
        Ok(frame.f_squeeze_dim(0)?)
    });
    let latents = latents.collect::<Result<Vec<_>>>()?;
    let memory = OneStoryMemory::open(folder, target)?;
    let (plane, time) = ([height as u32, width as u32], ContextTime::default());
    Ok(vec![
        ("output", memory.patchifiers.forward(&chosen, &latents)?),
        (
            "positions",
            context_positions(&chosen, scores.len(), plane, time)?,
        ),
    ])
}

/// A target on the CPU from the name of a dtype, as the command line gives it.
///
/// # Errors
/// The name is none of `f32`, `bf16` and `f16`.
pub fn cpu_target(dtype: &str) -> Result<Target> {
    let kind = match dtype {
        "f32" => Kind::Float,
        "bf16" => Kind::BFloat16,
        "f16" => Kind::Half,
        other => {
            let reason = format!("{other:?} is not known; use f32, bf16 or f16");
            return Err(ModelError::input("dtype", reason));
        }
    };
    Ok(Target {
        kind,
        ..Target::CPU_F32
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::language::queries::ProjectorConfig;
    use storyloom_nn::testing::{cosines, fill_checkpoint, golden, golden_tensors, relative_error};
    use storyloom_story::Seed;

    /// Runs the module on a golden file, which has inputs and `output` in it.
    #[track_caller]
    fn reproduces(case: &str, file: &str, module: &str) {
        let folder = golden(case);
        let input = folder.join(file);
        let work = tempfile::tempdir().unwrap();
        let output = work.path().join("output.safetensors");
        forward_file(&folder, module, Target::CPU_F32, &input, &output).unwrap();
        let found = &read_tensors(&output).unwrap()["output"];
        let expected = &read_tensors(&input).unwrap()["output"];
        let error = relative_error(found, expected);
        assert!(error < 1e-4, "{case}: relative error {error:.2e}");
    }

    #[test]
    fn every_module_reproduces_its_golden() {
        for (case, file, module) in [
            ("dit-t2v", "io.safetensors", "transformer"),
            ("dit-ti2v", "io.safetensors", "transformer"),
            ("dit-wan21-i2v", "io.safetensors", "transformer"),
            ("storymem-rope", "io.safetensors", "transformer"),
            ("vae21", "encode.safetensors", "vae.encode"),
            ("vae22", "decode.safetensors", "vae.decode"),
            ("umt5", "io.safetensors", "text_encoder"),
            ("clip-b32", "io.safetensors", "image_encoder"),
            ("clip-h14", "io.safetensors", "image_encoder"),
            ("dino-b14", "io.safetensors", "image_encoder"),
            ("dino-swiglu", "io.safetensors", "image_encoder"),
            ("language-qwen3", "forward.safetensors", "language_model"),
        ] {
            reproduces(case, file, module);
        }
    }

    /// The same with the CPU in the place of a GPU, whose kernels a host compiler translates.
    #[test]
    fn the_transformers_reproduce_theirs_through_the_kernels() {
        storyloom_nn::stand_in::as_gpu(|| {
            for case in ["dit-t2v", "dit-ti2v", "dit-wan21-i2v", "storymem-rope"] {
                reproduces(case, "io.safetensors", "transformer");
            }
        });
    }

    /// What the composition in Python says of selector and patchifiers, by the names of their inputs.
    #[test]
    fn the_parts_of_onestory_reproduce_theirs() {
        let work = tempfile::tempdir().unwrap();
        let run = |case: &str, module: &str, inputs: &[(&str, Tensor)]| {
            let (input, output) = (
                work.path().join("i.safetensors"),
                work.path().join("o.safetensors"),
            );
            let views: Vec<(&str, &Tensor)> = inputs.iter().map(|(name, t)| (*name, t)).collect();
            write_tensors(&input, &views).unwrap();
            forward_file(&golden(case), module, Target::CPU_F32, &input, &output)?;
            read_tensors(&output)
        };
        let stored = golden_tensors("onestory-selector", "io.safetensors");
        let shot = |number: usize| stored[&format!("even.history.{number}")].unsqueeze(0);
        let inputs = [
            (
                "encoder_hidden_states",
                stored["caption.first"].unsqueeze(0),
            ),
            ("history.0", shot(0)),
            ("history.1", shot(1)),
            ("history.2", shot(2)),
        ];
        let found = run("onestory-selector", "selector", &inputs).unwrap();
        let error = relative_error(&found["output"].squeeze(), &stored["even.first.cosine"]);
        assert!(error < 1e-5, "{error:.2e}");
        let error = run("onestory-selector", "selector", &inputs[..1]).unwrap_err();
        assert!(
            error.to_string().contains("history.0 is missing"),
            "{error}"
        );

        let stored = golden_tensors("onestory-conditioner", "io.safetensors");
        let of = |name: &str| stored[&format!("16x32.6.{name}")].shallow_clone();
        let inputs = [
            ("scores", of("scores")),
            ("counts", of("counts")),
            ("history.0", of("history.0").unsqueeze(0)),
            ("history.1", of("history.1").unsqueeze(0)),
        ];
        let found = run("onestory-conditioner", "conditioner", &inputs).unwrap();
        let error = relative_error(&found["output"].squeeze_dim(0), &of("context"));
        assert!(error < 1e-5, "{error:.2e}");
        assert_eq!(found["positions"], of("positions.shifted"));
        let error = run("onestory-conditioner", "conditioner", &inputs[..3]).unwrap_err();
        assert!(error.to_string().contains("3 frames"), "{error}");
    }

    /// The encoders and the autoencoder of a pipeline for pictures, each as its class runs alone.
    #[test]
    fn encoders_and_autoencoders_are_run_by_their_class() {
        let (folder, work) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        crate::tiny::write_around_transformer(folder.path(), Seed(2)).unwrap();
        let run = |module: &str, name: &str, tensor: &Tensor| {
            let (input, output) = (
                work.path().join("i.safetensors"),
                work.path().join("o.safetensors"),
            );
            write_tensors(&input, &[(name, tensor)]).unwrap();
            forward_file(folder.path(), module, Target::CPU_F32, &input, &output).unwrap();
            read_tensors(&output).unwrap()
        };
        let place = |name: &str| folder.path().join(name);
        let ids = Tensor::from_slice(&[5_i64, 300, 7]).unsqueeze(0);
        let same = |module: &str, name: &str, tensor: &Tensor, output: &str, expected: &Tensor| {
            let found = &run(module, name, tensor)[output];
            let error = relative_error(found, expected);
            assert!(error < 1e-6, "{module} {output}: {error:.2e}");
        };
        let clip = ClipText::open(&place("text_encoder"), Target::CPU_F32).unwrap();
        let expected = clip.forward(&ids).unwrap();
        same(
            "text_encoder",
            "input_ids",
            &ids,
            "output",
            &expected.last_hidden_state,
        );
        same(
            "text_encoder",
            "input_ids",
            &ids,
            "pooled",
            &expected.pooled,
        );
        let t5 = T5Encoder::open(&place("text_encoder_2"), Target::CPU_F32).unwrap();
        let expected = t5.forward(&ids, None).unwrap();
        same("text_encoder_2", "input_ids", &ids, "output", &expected);
        let vae = AutoencoderKl::open(&place("vae"), Target::CPU_F32).unwrap();
        let picture = storyloom_nn::testing::cosines(&[1, 3, 16, 24], 0.3);
        let latents = vae.encode(&picture).unwrap();
        same("vae.encode", "sample", &picture, "output", &latents);
        let pixels = vae.decode(&latents).unwrap();
        same("vae.decode", "latents", &latents, "output", &pixels);
    }

    /// Rows in place of tokens, a mask and positions of one's own: other ways to the same scores.
    #[test]
    fn a_language_model_takes_rows_masks_and_positions() {
        let case = "language-qwen3";
        let stored = golden_tensors(case, "forward.safetensors");
        let settings = LanguageSettings::default();
        let (decoder, _) = open_networks(&golden(case), &settings).unwrap();
        let rows = decoder.embed(&stored["input_ids"]).unwrap();
        let count = rows.size()[1];
        let options = (Kind::Bool, tch::Device::Cpu);
        let mask = Tensor::ones([count, count], options)
            .tril(0)
            .view([1, 1, count, count]);
        let positions = Tensor::arange(count, (Kind::Int64, tch::Device::Cpu));
        let positions = positions.view([1, 1, count]);
        let work = tempfile::tempdir().unwrap();
        let run = |inputs: &[(&str, &Tensor)]| {
            let [input, output] =
                ["i", "o"].map(|name| work.path().join(name).with_extension("safetensors"));
            write_tensors(&input, inputs).unwrap();
            forward_file(
                &golden(case),
                "language_model",
                Target::CPU_F32,
                &input,
                &output,
            )?;
            read_tensors(&output)
        };
        let all = [
            ("inputs_embeds", &rows),
            ("attention_mask", &mask),
            ("position_ids", &positions),
        ];
        let found = run(&all).unwrap();
        let error = relative_error(&found["output"], &stored["output"]);
        assert!(error < 1e-4, "{error:.2e}");
        let blind = Tensor::ones([count, count], options).view([1, 1, count, count]);
        let other = run(&[all[0], ("attention_mask", &blind)]).unwrap();
        assert!(relative_error(&other["output"], &stored["output"]) > 1e-2);
        let both = run(&[all[0], ("input_ids", &stored["input_ids"])]).unwrap_err();
        assert!(both.to_string().contains("in place of input_ids"), "{both}");
    }

    #[test]
    fn a_projector_runs_alone() {
        let config = ProjectorConfig {
            width: 8,
            text_width: 12,
            pooled_width: 5,
            ..ProjectorConfig::default()
        };
        let work = tempfile::tempdir().unwrap();
        let folder = work.path().join("projector");
        std::fs::create_dir(&folder).unwrap();
        let mut json = serde_json::to_value(&config).unwrap();
        json["_class_name"] = ProjectorConfig::CLASS.into();
        fill_checkpoint(&folder, &json.to_string(), 0.2, |weights| {
            Projector::load(weights, &config).map(drop)
        });
        let states = cosines(&[2, 3, 8], 0.2);
        let [input, output] =
            ["i", "o"].map(|name| work.path().join(name).with_extension("safetensors"));
        write_tensors(&input, &[("query_states", &states)]).unwrap();
        forward_file(work.path(), "projector", Target::CPU_F32, &input, &output).unwrap();
        let (found, projector) = (
            read_tensors(&output).unwrap(),
            Projector::open(&folder, Target::CPU_F32),
        );
        let expected = projector.unwrap().forward(&states).unwrap();
        assert_eq!(
            (&found["output"], &found["pooled"]),
            (&expected.text, &expected.pooled)
        );
    }

    #[test]
    fn a_component_folder_may_be_named_itself() {
        let folder = golden("vae21");
        let input = folder.join("decode.safetensors");
        let work = tempfile::tempdir().unwrap();
        let output = work.path().join("o.safetensors");
        let vae = folder.join("vae");
        forward_file(&vae, "vae.decode", Target::CPU_F32, &input, &output).unwrap();
        assert!(output.exists());
    }

    #[test]
    fn mistakes_are_named() {
        let folder = golden("vae21");
        let input = folder.join("decode.safetensors");
        let run = |module: &str| {
            let output = Path::new("/nonexistent/o.safetensors");
            let result = forward_file(&folder, module, Target::CPU_F32, &input, output);
            result.unwrap_err().to_string()
        };
        assert!(run("vae").contains("vae.encode"), "{}", run("vae"));
        assert!(run("vae.encode").contains("latents is no input"));
        assert!(run("transformer").contains("latents is no input"));
        assert!(cpu_target("f8").is_err());
    }
}
