//! What FLUX is told of a prompt: rows of T5 and a vector of CLIP (specification `flux`, section 3).

use std::path::Path;

use storyloom_nn::checkpoint::Target;
use storyloom_nn::error::Result;
use tch::Tensor;

use super::clip::ClipPrompts;
use super::t5_prompts::T5Prompts;

/// Both conditions of one prompt, f32.
#[derive(Debug)]
pub struct FluxText {
    /// `[1, rows, width of T5]`; pads are rows like others.
    pub rows: Tensor,
    /// `[1, width of CLIP]`, after the final norm and not projected.
    pub pooled: Tensor,
}

/// The two text encoders of a FLUX pipeline and their tokenizers.
#[derive(Debug)]
pub struct FluxPrompts {
    clip: ClipPrompts,
    t5: T5Prompts,
}

impl FluxPrompts {
    /// Opens `tokenizer/`, `text_encoder/`, `tokenizer_2/` and `text_encoder_2/` below a pipeline folder. T5 gives
    /// `rows` rows: 512 for dev and Kontext, 256 for schnell.
    ///
    /// # Errors
    /// What [`ClipPrompts::open`] and [`T5Prompts::open`] refuse.
    pub fn open(pipeline: &Path, rows: usize, target: Target) -> Result<Self> {
        let folder = |name| pipeline.join(name);
        Ok(Self {
            clip: ClipPrompts::open(&folder("text_encoder"), &folder("tokenizer"), target)?,
            t5: T5Prompts::open(
                &folder("text_encoder_2"),
                &folder("tokenizer_2"),
                rows,
                target,
            )?,
        })
    }

    /// A prompt as typed; `second`, if given, is what T5 is told instead. Whole on one rank; no collective.
    ///
    /// # Errors
    /// Tokenizers that contradict themselves or their encoders.
    pub fn encode(&self, prompt: &str, second: Option<&str>) -> Result<FluxText> {
        Ok(FluxText {
            rows: self.t5.encode(second.unwrap_or(prompt))?,
            pooled: self.clip.encode(&[prompt])?.pooled,
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use storyloom_nn::testing::golden;
    use storyloom_nn::testing::vectors::write_vector_checkpoint;

    use super::*;
    use crate::text::clip::{ClipText, ClipTextConfig};
    use crate::text::{PositionTables, T5Config, T5Encoder};

    fn write_encoders(pipeline: &Path) {
        let clip = json!({
            "architectures": ["CLIPTextModel"], "vocab_size": 634, "hidden_size": 32, "intermediate_size": 64,
            "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 24, "eos_token_id": 2,
        });
        write_vector_checkpoint(&pipeline.join("text_encoder"), &clip, |weights| {
            let config: ClipTextConfig = serde_json::from_value(clip.clone()).unwrap();
            ClipText::load(weights, config, false).map(drop)
        });
        let t5 = json!({
            "architectures": ["T5EncoderModel"], "vocab_size": 248, "d_model": 48, "d_kv": 8, "d_ff": 48,
            "num_layers": 2, "num_heads": 4,
        });
        write_vector_checkpoint(&pipeline.join("text_encoder_2"), &t5, |weights| {
            let config = T5Config {
                tables: PositionTables::FirstLayer,
                ..serde_json::from_value(t5.clone()).unwrap()
            };
            T5Encoder::load(weights, config).map(drop)
        });
        for (from, to) in [
            ("clip-tokenizer/first", "tokenizer"),
            ("umt5/tokenizer", "tokenizer_2"),
        ] {
            std::fs::create_dir_all(pipeline.join(to)).unwrap();
            for file in std::fs::read_dir(golden(from)).unwrap() {
                let file = file.unwrap();
                std::fs::copy(file.path(), pipeline.join(to).join(file.file_name())).unwrap();
            }
        }
    }

    /// The prompt goes to CLIP, the second to T5, which otherwise has the same one.
    #[test]
    fn each_encoder_has_its_prompt() {
        let pipeline = tempfile::tempdir().unwrap();
        write_encoders(pipeline.path());
        let prompts = FluxPrompts::open(pipeline.path(), 16, Target::CPU_F32).unwrap();
        let one = prompts.encode("a red fox", None).unwrap();
        assert_eq!(
            (one.rows.size(), one.pooled.size()),
            (vec![1, 16, 48], vec![1, 32])
        );
        let two = prompts
            .encode("a red fox", Some("the sea at noon"))
            .unwrap();
        assert_eq!(two.pooled, one.pooled);
        assert_ne!(two.rows, one.rows);
        let same = prompts.encode("the sea at noon", None).unwrap();
        assert_eq!(same.rows, two.rows);
        assert_ne!(same.pooled, one.pooled);
    }
}
