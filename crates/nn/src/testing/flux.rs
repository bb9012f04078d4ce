//! Help for tests: FLUX's transformer and autoencoder in the names of diffusers, and the same tensors as the
//! original code writes them (specification `flux`, sections 1.9 and 4).
//!
//! The rules here are written out by hand and do not look at the tables of the loader.

use std::collections::BTreeMap;

use tch::{Device, Kind, Tensor};

/// Shapes by names.
pub type Shapes = BTreeMap<String, Vec<i64>>;

/// The sizes of a FLUX transformer.
#[derive(Debug, Clone, Copy)]
pub struct FluxSizes {
    /// Width of the network.
    pub width: i64,
    /// Width of a head.
    pub head: i64,
    /// Channels of a packed token.
    pub channels: i64,
    /// Width of the rows of text.
    pub text: i64,
    /// Width of the pooled row.
    pub pooled: i64,
    /// Blocks with two streams.
    pub doubles: usize,
    /// Blocks with one stream.
    pub singles: usize,
    /// Whether guidance is embedded.
    pub guidance: bool,
}

impl FluxSizes {
    /// FLUX.1-dev.
    pub const DEV: Self = Self {
        width: 3072,
        head: 128,
        channels: 64,
        text: 4096,
        pooled: 768,
        doubles: 19,
        singles: 38,
        guidance: true,
    };

    /// A few thousand numbers.
    pub const TINY: Self = Self {
        width: 8,
        head: 4,
        channels: 6,
        text: 5,
        pooled: 3,
        doubles: 2,
        singles: 3,
        guidance: true,
    };

    /// The shapes of its tensors in the names of diffusers.
    pub fn shapes(self) -> Shapes {
        let mut shapes = Shapes::new();
        let width = self.width;
        let mut linear = |name: &str, inputs: i64, outputs: i64| {
            shapes.insert(format!("{name}.weight"), vec![outputs, inputs]);
            shapes.insert(format!("{name}.bias"), vec![outputs]);
        };
        linear("x_embedder", self.channels, width);
        linear("context_embedder", self.text, width);
        let embedders = [
            ("timestep_embedder", 256),
            ("guidance_embedder", 256),
            ("text_embedder", self.pooled),
        ];
        for (name, inputs) in embedders {
            if name != "guidance_embedder" || self.guidance {
                linear(&format!("time_text_embed.{name}.linear_1"), inputs, width);
                linear(&format!("time_text_embed.{name}.linear_2"), width, width);
            }
        }
        linear("norm_out.linear", width, 2 * width);
        linear("proj_out", width, self.channels);
        for block in 0..self.doubles {
            let block = format!("transformer_blocks.{block}");
            for norm in ["norm1", "norm1_context"] {
                linear(&format!("{block}.{norm}.linear"), width, 6 * width);
            }
            for layer in [
                "to_q",
                "to_k",
                "to_v",
                "add_q_proj",
                "add_k_proj",
                "add_v_proj",
                "to_out.0",
                "to_add_out",
            ] {
                linear(&format!("{block}.attn.{layer}"), width, width);
            }
            for mlp in ["ff", "ff_context"] {
                linear(&format!("{block}.{mlp}.net.0.proj"), width, 4 * width);
                linear(&format!("{block}.{mlp}.net.2"), 4 * width, width);
            }
        }
        for block in 0..self.singles {
            let block = format!("single_transformer_blocks.{block}");
            linear(&format!("{block}.norm.linear"), width, 3 * width);
            for layer in ["to_q", "to_k", "to_v"] {
                linear(&format!("{block}.attn.{layer}"), width, width);
            }
            linear(&format!("{block}.proj_mlp"), width, 4 * width);
            linear(&format!("{block}.proj_out"), 5 * width, width);
        }
        for block in 0..self.doubles {
            for norm in ["norm_q", "norm_k", "norm_added_q", "norm_added_k"] {
                let name = format!("transformer_blocks.{block}.attn.{norm}.weight");
                shapes.insert(name, vec![self.head]);
            }
        }
        for block in 0..self.singles {
            for norm in ["norm_q", "norm_k"] {
                let name = format!("single_transformer_blocks.{block}.attn.{norm}.weight");
                shapes.insert(name, vec![self.head]);
            }
        }
        shapes
    }
}

/// How a tensor of an original file is made of tensors of diffusers.
#[derive(Debug, Clone)]
pub enum Made {
    /// It is the tensor of this name.
    Copied(String),
    /// These tensors, one below the other.
    Stacked(Vec<String>),
    /// The tensor of this name with its second half first.
    Swapped(String),
    /// The matrix of this name as a convolution of one pixel.
    OnePixel(String),
}

/// The tensors of an original transformer file, and what they are made of.
pub fn original_transformer(sizes: FluxSizes) -> Vec<(String, Made)> {
    let mut found = Vec::new();
    let mut linear = |original: String, layers: &[String]| {
        for leaf in ["weight", "bias"] {
            let names: Vec<String> = layers.iter().map(|name| format!("{name}.{leaf}")).collect();
            let made = match names.as_slice() {
                [name] => Made::Copied(name.clone()),
                _ => Made::Stacked(names),
            };
            found.push((format!("{original}.{leaf}"), made));
        }
    };
    linear("img_in".into(), &["x_embedder".into()]);
    linear("txt_in".into(), &["context_embedder".into()]);
    linear("final_layer.linear".into(), &["proj_out".into()]);
    for (original, name) in [
        ("time_in", "timestep_embedder"),
        ("guidance_in", "guidance_embedder"),
        ("vector_in", "text_embedder"),
    ] {
        if original != "guidance_in" || sizes.guidance {
            let name = format!("time_text_embed.{name}");
            linear(
                format!("{original}.in_layer"),
                &[format!("{name}.linear_1")],
            );
            linear(
                format!("{original}.out_layer"),
                &[format!("{name}.linear_2")],
            );
        }
    }
    for block in 0..sizes.doubles {
        let inside = |name: &str| format!("transformer_blocks.{block}.{name}");
        let original = |name: &str| format!("double_blocks.{block}.{name}");
        let image = ["attn.to_q", "attn.to_k", "attn.to_v"].map(inside);
        let text = ["attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"].map(inside);
        linear(original("img_attn.qkv"), &image);
        linear(original("txt_attn.qkv"), &text);
        for (layer, name) in [
            ("img_mod.lin", "norm1.linear"),
            ("txt_mod.lin", "norm1_context.linear"),
            ("img_attn.proj", "attn.to_out.0"),
            ("txt_attn.proj", "attn.to_add_out"),
            ("img_mlp.0", "ff.net.0.proj"),
            ("img_mlp.2", "ff.net.2"),
            ("txt_mlp.0", "ff_context.net.0.proj"),
            ("txt_mlp.2", "ff_context.net.2"),
        ] {
            linear(original(layer), &[inside(name)]);
        }
    }
    for block in 0..sizes.singles {
        let inside = |name: &str| format!("single_transformer_blocks.{block}.{name}");
        let original = |name: &str| format!("single_blocks.{block}.{name}");
        let first = ["attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"].map(inside);
        linear(original("linear1"), &first);
        linear(original("linear2"), &[inside("proj_out")]);
        linear(original("modulation.lin"), &[inside("norm.linear")]);
    }
    for leaf in ["weight", "bias"] {
        let made = Made::Swapped(format!("norm_out.linear.{leaf}"));
        found.push((format!("final_layer.adaLN_modulation.1.{leaf}"), made));
    }
    found.extend(original_norms(sizes));
    found
}

fn original_norms(sizes: FluxSizes) -> Vec<(String, Made)> {
    let mut found = Vec::new();
    for block in 0..sizes.doubles {
        for (original, name) in [
            ("img_attn.norm.query_norm", "norm_q"),
            ("img_attn.norm.key_norm", "norm_k"),
            ("txt_attn.norm.query_norm", "norm_added_q"),
            ("txt_attn.norm.key_norm", "norm_added_k"),
        ] {
            let made = Made::Copied(format!("transformer_blocks.{block}.attn.{name}.weight"));
            found.push((format!("double_blocks.{block}.{original}.scale"), made));
        }
    }
    for block in 0..sizes.singles {
        for (original, name) in [("query_norm", "norm_q"), ("key_norm", "norm_k")] {
            let name = format!("single_transformer_blocks.{block}.attn.{name}.weight");
            let original = format!("single_blocks.{block}.norm.{original}.scale");
            found.push((original, Made::Copied(name)));
        }
    }
    found
}

/// FLUX's autoencoder: width of each level, and residual blocks of a level of the encoder. Latents have 16
/// channels, pictures three.
#[derive(Debug, Clone, Copy)]
pub struct AutoencoderSizes<'a> {
    /// Width of each level, outermost first.
    pub widths: &'a [i64],
    /// Residual blocks of a level of the encoder; the decoder has one more.
    pub blocks: usize,
}

impl AutoencoderSizes<'_> {
    /// The tensors of diffusers with their shapes, each with its original tensor.
    pub fn tensors(self) -> Vec<(String, Made, Vec<i64>)> {
        let mut list = AutoencoderList(Vec::new());
        let (levels, widest) = (self.widths.len(), self.widths[self.widths.len() - 1]);
        let mut width = self.widths[0];
        list.conv("encoder.conv_in", "encoder.conv_in", 3, width, 3);
        for level in 0..levels {
            for block in 0..self.blocks {
                let original = format!("encoder.down.{level}.block.{block}");
                let name = format!("encoder.down_blocks.{level}.resnets.{block}");
                list.block(&original, &name, width, self.widths[level]);
                width = self.widths[level];
            }
            if level + 1 < levels {
                let original = format!("encoder.down.{level}.downsample.conv");
                let name = format!("encoder.down_blocks.{level}.downsamplers.0.conv");
                list.conv(&original, &name, width, width, 3);
            }
        }
        list.middle("encoder", widest);
        list.norm("encoder.norm_out", "encoder.conv_norm_out", widest);
        list.conv("encoder.conv_out", "encoder.conv_out", widest, 32, 3);
        list.conv("decoder.conv_in", "decoder.conv_in", 16, widest, 3);
        list.middle("decoder", widest);
        for level in 0..levels {
            let backwards = levels - 1 - level;
            for block in 0..=self.blocks {
                let original = format!("decoder.up.{backwards}.block.{block}");
                let name = format!("decoder.up_blocks.{level}.resnets.{block}");
                list.block(&original, &name, width, self.widths[backwards]);
                width = self.widths[backwards];
            }
            if backwards > 0 {
                let original = format!("decoder.up.{backwards}.upsample.conv");
                let name = format!("decoder.up_blocks.{level}.upsamplers.0.conv");
                list.conv(&original, &name, width, width, 3);
            }
        }
        list.norm("decoder.norm_out", "decoder.conv_norm_out", width);
        list.conv("decoder.conv_out", "decoder.conv_out", width, 3, 3);
        list.0
    }
}

struct AutoencoderList(Vec<(String, Made, Vec<i64>)>);

impl AutoencoderList {
    fn add(&mut self, original: String, made: Made, shape: Vec<i64>) {
        self.0.push((original, made, shape));
    }

    fn conv(&mut self, original: &str, name: &str, inputs: i64, outputs: i64, side: i64) {
        let made = |leaf| Made::Copied(format!("{name}.{leaf}"));
        self.add(
            format!("{original}.weight"),
            made("weight"),
            vec![outputs, inputs, side, side],
        );
        self.add(format!("{original}.bias"), made("bias"), vec![outputs]);
    }

    fn norm(&mut self, original: &str, name: &str, width: i64) {
        for leaf in ["weight", "bias"] {
            let made = Made::Copied(format!("{name}.{leaf}"));
            self.add(format!("{original}.{leaf}"), made, vec![width]);
        }
    }

    fn block(&mut self, original: &str, name: &str, inputs: i64, outputs: i64) {
        self.norm(
            &format!("{original}.norm1"),
            &format!("{name}.norm1"),
            inputs,
        );
        self.conv(
            &format!("{original}.conv1"),
            &format!("{name}.conv1"),
            inputs,
            outputs,
            3,
        );
        self.norm(
            &format!("{original}.norm2"),
            &format!("{name}.norm2"),
            outputs,
        );
        self.conv(
            &format!("{original}.conv2"),
            &format!("{name}.conv2"),
            outputs,
            outputs,
            3,
        );
        if inputs != outputs {
            let shortcut = format!("{name}.conv_shortcut");
            self.conv(
                &format!("{original}.nin_shortcut"),
                &shortcut,
                inputs,
                outputs,
                1,
            );
        }
    }

    fn middle(&mut self, half: &str, width: i64) {
        let attention = format!("{half}.mid_block.attentions.0");
        for (index, original) in ["block_1", "block_2"].into_iter().enumerate() {
            let name = format!("{half}.mid_block.resnets.{index}");
            self.block(&format!("{half}.mid.{original}"), &name, width, width);
        }
        self.norm(
            &format!("{half}.mid.attn_1.norm"),
            &format!("{attention}.group_norm"),
            width,
        );
        for (layer, name) in [
            ("q", "to_q"),
            ("k", "to_k"),
            ("v", "to_v"),
            ("proj_out", "to_out.0"),
        ] {
            let original = format!("{half}.mid.attn_1.{layer}");
            let weight = Made::OnePixel(format!("{attention}.{name}.weight"));
            self.add(format!("{original}.weight"), weight, vec![width, width]);
            let bias = Made::Copied(format!("{attention}.{name}.bias"));
            self.add(format!("{original}.bias"), bias, vec![width]);
        }
    }
}

/// Tensors of these shapes with values that differ in every place, f32.
pub fn numbered(shapes: &Shapes) -> BTreeMap<String, Tensor> {
    let mut first = 0;
    let filled = shapes.iter().map(|(name, shape)| {
        let count: i64 = shape.iter().product();
        let options = (Kind::Float, Device::Cpu);
        let values = Tensor::arange_start(first, first + count, options);
        first += count;
        (name.clone(), values.view(shape.as_slice()))
    });
    filled.collect()
}

/// An original file's tensors, of those of diffusers.
pub fn made_of(
    recipe: &[(String, Made)],
    diffusers: &BTreeMap<String, Tensor>,
) -> BTreeMap<String, Tensor> {
    let make = |made: &Made| match made {
        Made::Copied(name) => diffusers[name].shallow_clone(),
        Made::Stacked(names) => {
            let parts: Vec<&Tensor> = names.iter().map(|name| &diffusers[name]).collect();
            Tensor::cat(&parts, 0)
        }
        Made::Swapped(name) => {
            let halves = diffusers[name].chunk(2, 0);
            Tensor::cat(&[&halves[1], &halves[0]], 0)
        }
        Made::OnePixel(name) => diffusers[name].unsqueeze(-1).unsqueeze(-1),
    };
    let tensors = recipe.iter().map(|(name, made)| (name.clone(), make(made)));
    tensors.collect()
}
