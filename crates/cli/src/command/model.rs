//! `storyloom model`: looking at checkpoints, making tiny ones, running one module.

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use storyloom_models::forward::{cpu_target, forward_file};
use storyloom_models::inspect::{Component, inspect};
use storyloom_models::tiny::{init_tiny, init_tiny_flux, init_tiny_language};
use storyloom_story::{Method, Seed};

use super::{ConfigArguments, config};
use crate::checkpoints;
use crate::config::options::EngineKind;
use crate::config::resolved::EngineConfig;
use crate::exit::{Exit, Failure, Outcome};
use crate::output::{print, print_json};

/// Arguments of `model`.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Show what a checkpoint is made of.
    Inspect {
        /// Folder of a checkpoint, or of several, or a single file.
        folder: PathBuf,
        /// Print the components as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Show what the settings need of checkpoints, what is there and what is missing.
    Check(ConfigArguments),
    /// Write tiny checkpoints with random weights, in the layout of the real ones.
    InitTiny {
        /// Folder to make.
        folder: PathBuf,
        /// Method that the checkpoints are for.
        #[arg(long, default_value = "storymem", value_parser = method)]
        method: Method,
        /// Write a language model instead, to try planner.backend = "native" with.
        #[arg(long, conflicts_with = "method")]
        language_model: bool,
        /// Write a pipeline of FLUX instead, to try `model forward` with.
        #[arg(long, conflicts_with_all = ["method", "language_model"])]
        flux: bool,
        /// Equal seeds give equal files.
        #[arg(long, default_value_t = 0)]
        seed: u64,
    },
    /// Run one module on given tensors, for comparing it with the reference.
    Forward(Forward),
}

#[derive(Debug, Args)]
struct Forward {
    /// Pipeline folder, the folder of the component, or a single file of FLUX.
    #[arg(long, value_name = "PATH")]
    model: PathBuf,
    /// transformer, transformer_2, vae.encode, vae.decode, text_encoder, text_encoder_2, image_encoder, language_model,
    /// selector or conditioner of OneStory, or projector of learned queries.
    #[arg(long, value_name = "NAME")]
    module: String,
    /// safetensors file with the arguments of the reference class, by name.
    #[arg(long, value_name = "FILE")]
    input: PathBuf,
    /// safetensors file to write; the result is called output.
    #[arg(long, value_name = "FILE")]
    output: PathBuf,
    /// Precision of the weights: f32, bf16 or f16.
    #[arg(long, default_value = "f32")]
    dtype: String,
}

fn method(name: &str) -> Result<Method, String> {
    let known = Method::WITH_NETWORKS
        .into_iter()
        .find(|method| method.name() == name);
    known.ok_or_else(|| {
        let names = Method::WITH_NETWORKS.map(Method::name);
        format!(
            "there is no such method; so far there are {}",
            names.join(", ")
        )
    })
}

/// Does what is asked of a checkpoint.
pub fn run(arguments: &Arguments) -> Outcome {
    match &arguments.what {
        What::Inspect { folder, json } => {
            let components = inspect(folder)?;
            if *json {
                print_json(&components)?;
            } else {
                print(&table(&components))?;
            }
            let broken = components
                .iter()
                .any(|component| component.problem.is_some());
            Ok(if broken { Exit::Config } else { Exit::Done })
        }
        What::Check(arguments) => check(&config::load(arguments)?.engine),
        What::InitTiny {
            folder,
            method,
            language_model,
            flux,
            seed,
        } => {
            let seed = Seed(*seed);
            match (language_model, flux) {
                (true, _) => init_tiny_language(folder, seed)?,
                (_, true) => init_tiny_flux(folder, seed)?,
                _ => init_tiny(folder, *method, seed)?,
            }
            print(&folder.display().to_string())?;
            Ok(Exit::Done)
        }
        What::Forward(forward) => {
            let target =
                cpu_target(&forward.dtype).map_err(|error| Failure::new(Exit::Usage, error))?;
            let Forward {
                model,
                module,
                input,
                output,
                ..
            } = forward;
            forward_file(model, module, target, input, output)?;
            Ok(Exit::Done)
        }
    }
}

/// Prints the list of parts; all that is missing is told at once.
fn check(config: &EngineConfig) -> Outcome {
    if config.kind == EngineKind::Simulated {
        print("engine = \"simulated\" needs no checkpoints")?;
        return Ok(Exit::Done);
    }
    let set = checkpoints::of(config)?;
    print(&set.table())?;
    Ok(match set.is_whole() {
        true => Exit::Done,
        false => Exit::Config,
    })
}

fn table(components: &[Component]) -> String {
    let widest = |of: &dyn Fn(&Component) -> usize| components.iter().map(of).max().unwrap_or(0);
    let paths = widest(&|component| component.path.display().to_string().chars().count());
    let classes = widest(&|component| component.class.as_deref().unwrap_or("-").chars().count());
    let mut text = String::new();
    for component in components {
        let Component {
            path,
            class,
            tensors,
            parameters,
            bytes,
            dtypes,
            leftovers,
            problem,
        } = component;
        let class = class.as_deref().unwrap_or("-");
        let dtypes: Vec<_> = dtypes.keys().map(String::as_str).collect();
        // Writing to a text cannot fail.
        let _ = writeln!(
            text,
            "{:<paths$} {class:<classes$} {tensors:>5} tensors {parameters:>14} parameters {bytes:>15} bytes {}",
            path.display().to_string(),
            dtypes.join("+")
        );
        if let Some(first) = leftovers.first() {
            let count = leftovers.len();
            let _ = writeln!(
                text,
                "  {count} tensors are no weights and not used: {first}{}",
                if count > 1 { ", …" } else { "" }
            );
        }
        if let Some(problem) = problem {
            let _ = writeln!(text, "  {problem}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_method_that_is_not_there_names_those_that_are() {
        assert_eq!(method("storymem"), Ok(Method::StoryMem));
        let said = method("storymen").unwrap_err();
        assert!(
            said.ends_with("so far there are storymem, onestory"),
            "{said}"
        );
    }

    #[test]
    fn a_table_says_what_is_not_used_and_what_is_wrong() {
        let whole = Component {
            path: PathBuf::from("t2v/vae"),
            class: Some("AutoencoderKLWan".to_owned()),
            tensors: 2,
            parameters: 12,
            bytes: 24,
            dtypes: [("BF16".to_owned(), 2)].into(),
            leftovers: vec!["table".to_owned(), "mask".to_owned()],
            problem: None,
        };
        let broken = Component {
            path: PathBuf::from("i2v/vae"),
            class: None,
            leftovers: Vec::new(),
            problem: Some("the file ends early".to_owned()),
            ..whole.clone()
        };
        let text = table(&[whole, broken]);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 4, "{text}");
        assert!(
            lines[0].starts_with("t2v/vae ") && lines[0].ends_with(" BF16"),
            "{text}"
        );
        assert_eq!(
            lines[1],
            "  2 tensors are no weights and not used: table, …"
        );
        assert_eq!(lines[3], "  the file ends early");
    }
}
