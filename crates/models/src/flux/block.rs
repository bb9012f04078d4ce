//! The two kinds of blocks (specification `flux`, 1.5 and 1.6).

use storyloom_nn::checkpoint::Weights;
use storyloom_nn::error::Result;
use storyloom_nn::layers::{
    Activation, LayerMut, Linear, Part, RealTokens, RmsNorm, RotaryTable, Stream, add_gated,
    attend_among, joint_heads, joint_values, merge_heads, timed,
};
use storyloom_nn::shard::{Peers, Shard};
use tch::{Kind, Tensor};

use super::FluxConfig;
use super::modulation::{ModulationLayer, Vectors};

/// Queries, keys and values of a stream, for the heads of this rank.
#[derive(Debug)]
struct Projections {
    query: Linear,
    key: Linear,
    value: Linear,
    query_norm: RmsNorm,
    key_norm: RmsNorm,
}

/// What the layers of [`Projections`] are called.
const IMAGE_NAMES: [&str; 5] = ["to_q", "to_k", "to_v", "norm_q", "norm_k"];
const TEXT_NAMES: [&str; 5] = [
    "add_q_proj",
    "add_k_proj",
    "add_v_proj",
    "norm_added_q",
    "norm_added_k",
];

impl Projections {
    fn load(
        weights: &Weights,
        names: [&str; 5],
        config: &FluxConfig,
        peers: &Peers,
    ) -> Result<Self> {
        let (width, part) = (config.width(), peers.part());
        let linear = |name| Linear::load_outputs(&weights.sub(name), width, width, part);
        let head = config.attention_head_dim;
        let norm = |name| RmsNorm::load(&weights.sub(name), head, FluxConfig::EPS);
        let [query, key, value, query_norm, key_norm] = names;
        Ok(Self {
            query: linear(query)?,
            key: linear(key)?,
            value: linear(value)?,
            query_norm: norm(query_norm)?,
            key_norm: norm(key_norm)?,
        })
    }

    /// Queries, keys and values `[batch, tokens, width of this rank's heads]` of normed tokens.
    fn project(&self, normed: &Tensor) -> Result<[Tensor; 3]> {
        timed(Part::Inputs, || {
            Ok([
                rounded(&self.query, normed)?,
                rounded(&self.key, normed)?,
                rounded(&self.value, normed)?,
            ])
        })
    }

    fn layer_mut(&mut self, names: [&str; 5], name: &str) -> Option<LayerMut<'_>> {
        let which = names.iter().position(|known| *known == name)?;
        Some(match which {
            0 => LayerMut::Linear(&mut self.query),
            1 => LayerMut::Linear(&mut self.key),
            2 => LayerMut::Linear(&mut self.value),
            3 => LayerMut::RmsNorm(&mut self.query_norm),
            _ => LayerMut::RmsNorm(&mut self.key_norm),
        })
    }
}

/// The product in the kind that layers compute in, also where an adapter adds to it in f32: what follows would
/// compute in f32 as well.
fn rounded(linear: &Linear, input: &Tensor) -> Result<Tensor> {
    Ok(linear.forward_rounded(input)?.f_to_kind(linear.kind())?)
}

/// Where the tokens of this rank stand, rows of text first.
#[derive(Debug)]
pub(super) struct Places {
    pub(super) rotary: RotaryTable,
    /// Which of the tokens of all ranks are there; `None`: all.
    pub(super) real: Option<Tensor>,
}

/// Who attends: the heads of this rank, and the ranks that hold the other tokens.
#[derive(Debug)]
struct JointAttention {
    heads: i64,
    sequence: Peers,
}

impl JointAttention {
    fn new(config: &FluxConfig, shard: &Shard) -> Self {
        Self {
            heads: shard.tensor.part().range(config.num_attention_heads).1,
            sequence: shard.sequence.clone(),
        }
    }

    /// Attention of the tokens of all streams to each other, one stream behind the other:
    /// `[batch, tokens of this rank, width of its heads]`. No mask. Ranks that share the tokens exchange them for
    /// heads and back.
    fn forward(&self, streams: &[(&Projections, [Tensor; 3])], places: &Places) -> Result<Tensor> {
        let (heads, rotary) = (self.heads, &places.rotary);
        let arranged = timed(Part::Elementwise, || {
            let queries = streams
                .iter()
                .map(|(p, [query, ..])| (query, &p.query_norm));
            let keys = streams.iter().map(|(p, [_, key, _])| (key, &p.key_norm));
            let values: Vec<&Tensor> = streams.iter().map(|(_, [.., value])| value).collect();
            Ok([
                joint_heads(&queries.collect::<Vec<Stream>>(), heads, rotary)?,
                joint_heads(&keys.collect::<Vec<Stream>>(), heads, rotary)?,
                joint_values(&values, heads)?,
            ])
        })?;
        let real = places.real.as_ref().map_or(RealTokens::All, RealTokens::At);
        let attended = attend_among(&self.sequence, arranged, real)?;
        timed(Part::Elementwise, || merge_heads(&attended))
    }
}

/// Image or text in a double block: all layers but the attention itself.
#[derive(Debug)]
struct StreamLayers {
    modulation: ModulationLayer,
    projections: Projections,
    output: Linear,
    first: Linear,
    second: Linear,
}

/// What the layers of a stream are called.
#[derive(Debug)]
struct StreamNames {
    modulation: &'static str,
    projections: [&'static str; 5],
    output: &'static str,
    feed_forward: &'static str,
}

const IMAGE: StreamNames = StreamNames {
    modulation: "norm1.linear",
    projections: IMAGE_NAMES,
    output: "to_out.0",
    feed_forward: "ff",
};
const TEXT: StreamNames = StreamNames {
    modulation: "norm1_context.linear",
    projections: TEXT_NAMES,
    output: "to_add_out",
    feed_forward: "ff_context",
};

impl StreamLayers {
    fn load(
        weights: &Weights,
        names: &StreamNames,
        config: &FluxConfig,
        peers: &Peers,
    ) -> Result<Self> {
        let (width, hidden) = (config.width(), config.hidden());
        let attention = weights.sub("attn");
        let feed_forward = weights.sub(names.feed_forward).sub("net");
        let first = feed_forward.sub("0.proj");
        Ok(Self {
            modulation: ModulationLayer::load(&weights.sub(names.modulation), width, 6)?,
            projections: Projections::load(&attention, names.projections, config, peers)?,
            output: Linear::load_inputs(&attention.sub(names.output), width, width, peers)?,
            first: Linear::load_outputs(&first, width, hidden, peers.part())?,
            second: Linear::load_inputs(&feed_forward.sub("2"), hidden, width, peers)?,
        })
    }

    /// Hidden channels of the feed-forward layer, this rank's part, of `[batch, tokens, width]` f32.
    fn feed(&self, hidden: &Tensor, vectors: &Vectors) -> Result<Tensor> {
        let normed = normed(hidden, vectors, self.first.kind())?;
        let fed = timed(Part::FeedForward, || rounded(&self.first, &normed))?;
        timed(Part::Elementwise, || Activation::GeluTanh.apply(fed))
    }

    fn layer_mut(&mut self, names: &StreamNames, name: &str) -> Option<LayerMut<'_>> {
        if name == names.modulation {
            return Some(LayerMut::Linear(self.modulation.linear_mut()));
        }
        let (part, inside) = name.split_once('.')?;
        if part == "attn" {
            return match inside == names.output {
                true => Some(LayerMut::Linear(&mut self.output)),
                false => self.projections.layer_mut(names.projections, inside),
            };
        }
        match (part == names.feed_forward, inside) {
            (true, "net.0.proj") => Some(LayerMut::Linear(&mut self.first)),
            (true, "net.2") => Some(LayerMut::Linear(&mut self.second)),
            _ => None,
        }
    }
}

fn normed(hidden: &Tensor, vectors: &Vectors, kind: Kind) -> Result<Tensor> {
    timed(Part::Elementwise, || vectors.normed(hidden, kind))
}

fn gated(hidden: Tensor, value: &Tensor, vectors: &Vectors) -> Result<Tensor> {
    timed(Part::Elementwise, || {
        add_gated(hidden, value, &vectors.gate())
    })
}

/// A block in which image and text have layers of their own and one attention (diffusers
/// `FluxTransformerBlock`).
#[derive(Debug)]
pub(super) struct DoubleBlock {
    image: StreamLayers,
    text: StreamLayers,
    attention: JointAttention,
}

impl DoubleBlock {
    pub(super) fn load(weights: &Weights, config: &FluxConfig, shard: &Shard) -> Result<Self> {
        Ok(Self {
            image: StreamLayers::load(weights, &IMAGE, config, &shard.tensor)?,
            text: StreamLayers::load(weights, &TEXT, config, &shard.tensor)?,
            attention: JointAttention::new(config, shard),
        })
    }

    /// Vectors of the image's norms and of the text's, of `condition` `[rows, width]` behind its SiLU.
    pub(super) fn modulation(&self, condition: &Tensor) -> Result<[[Vectors; 2]; 2]> {
        Ok([
            self.image.modulation.double(condition)?,
            self.text.modulation.double(condition)?,
        ])
    }

    /// `image` `[batch, image tokens, width]` and `text` `[batch, text rows, width]`, f32, this rank's, to the
    /// same. The ranks that share the layers sum twice: behind the attention and behind the feed-forward layers.
    pub(super) fn forward(
        &self,
        [mut image, mut text]: [Tensor; 2],
        [[image_first, image_second], [text_first, text_second]]: &[[Vectors; 2]; 2],
        places: &Places,
    ) -> Result<[Tensor; 2]> {
        let attended = self.attend(&image, &text, [image_first, text_first], places)?;
        let [of_image, of_text] = attended;
        image = gated(image, &of_image, image_first)?;
        text = gated(text, &of_text, text_first)?;

        let fed = [
            self.image.feed(&image, image_second)?,
            self.text.feed(&text, text_second)?,
        ];
        let [of_image, of_text] = timed(Part::FeedForward, || {
            Linear::forward_pair([&self.image.second, &self.text.second], fed.each_ref())
        })?;
        Ok([
            gated(image, &of_image, image_second)?,
            gated(text, &of_text, text_second)?,
        ])
    }

    /// What the attention adds to image and text.
    fn attend(
        &self,
        image: &Tensor,
        text: &Tensor,
        [of_image, of_text]: [&Vectors; 2],
        places: &Places,
    ) -> Result<[Tensor; 2]> {
        let of_stream = |layers: &'_ StreamLayers, hidden: &Tensor, vectors: &Vectors| {
            let normed = normed(hidden, vectors, layers.projections.query.kind())?;
            layers.projections.project(&normed)
        };
        let streams = [
            (
                &self.text.projections,
                of_stream(&self.text, text, of_text)?,
            ),
            (
                &self.image.projections,
                of_stream(&self.image, image, of_image)?,
            ),
        ];
        let attended = self.attention.forward(&streams, places)?;
        let (rows, tokens) = (text.size()[1], image.size()[1]);
        let of_text = attended.f_narrow(1, 0, rows)?;
        let of_image = attended.f_narrow(1, rows, tokens)?;
        timed(Part::Outputs, || {
            Linear::forward_pair(
                [&self.image.output, &self.text.output],
                [&of_image, &of_text],
            )
        })
    }

    /// The layers that adapters may change, by their diffusers names inside the block.
    pub(super) fn layer_mut(&mut self, name: &str) -> Option<LayerMut<'_>> {
        match self.image.layer_mut(&IMAGE, name) {
            Some(layer) => Some(layer),
            None => self.text.layer_mut(&TEXT, name),
        }
    }
}

/// A block in which text and image are one sequence, and attention and feed-forward layer read the same norm
/// (diffusers `FluxSingleTransformerBlock`).
#[derive(Debug)]
pub(super) struct SingleBlock {
    modulation: ModulationLayer,
    projections: Projections,
    feed_forward: Linear,
    /// Of what was attended, then of the hidden channels.
    output: Linear,
    attention: JointAttention,
}

impl SingleBlock {
    pub(super) fn load(weights: &Weights, config: &FluxConfig, shard: &Shard) -> Result<Self> {
        let peers = &shard.tensor;
        let (width, hidden) = (config.width(), config.hidden());
        let (attention, output) = (weights.sub("attn"), weights.sub("proj_out"));
        let feed_forward = weights.sub("proj_mlp");
        Ok(Self {
            modulation: ModulationLayer::load(&weights.sub("norm.linear"), width, 3)?,
            projections: Projections::load(&attention, IMAGE_NAMES, config, peers)?,
            feed_forward: Linear::load_outputs(&feed_forward, width, hidden, peers.part())?,
            output: Linear::load_input_groups(&output, &[width, hidden], width, peers)?,
            attention: JointAttention::new(config, shard),
        })
    }

    /// Vectors of the norm, of `condition` `[rows, width]` behind its SiLU.
    pub(super) fn modulation(&self, condition: &Tensor) -> Result<Vectors> {
        self.modulation.single(condition)
    }

    /// `[batch, text rows and image tokens, width]` f32, this rank's, to the same; one sum over the ranks that share
    /// the layers.
    pub(super) fn forward(
        &self,
        hidden: Tensor,
        vectors: &Vectors,
        places: &Places,
    ) -> Result<Tensor> {
        let normed = normed(&hidden, vectors, self.projections.query.kind())?;
        let projected = self.projections.project(&normed)?;
        let attended = self
            .attention
            .forward(&[(&self.projections, projected)], places)?;
        let fed = timed(Part::FeedForward, || rounded(&self.feed_forward, &normed))?;
        let both = timed(Part::Elementwise, || {
            let fed = Activation::GeluTanh.apply(fed)?;
            Ok(Tensor::f_cat(&[attended, fed], 2)?)
        })?;
        let output = timed(Part::Outputs, || self.output.forward_rounded(&both))?;
        gated(hidden, &output, vectors)
    }

    /// The layers that adapters may change, by their diffusers names inside the block.
    pub(super) fn layer_mut(&mut self, name: &str) -> Option<LayerMut<'_>> {
        Some(LayerMut::Linear(match name {
            "norm.linear" => self.modulation.linear_mut(),
            "proj_mlp" => &mut self.feed_forward,
            "proj_out" => &mut self.output,
            _ => {
                let inside = name.strip_prefix("attn.")?;
                return self.projections.layer_mut(IMAGE_NAMES, inside);
            }
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flux::FluxPositions;
    use serde_json::Value;
    use std::collections::BTreeMap;
    use std::path::Path;
    use storyloom_nn::checkpoint::{Checkpoint, Target};
    use storyloom_nn::layers::joint_heads;
    use storyloom_nn::testing::vectors::{
        asked_tensors, assert_begins, assert_near, flux_vector, numbers,
    };
    use tch::Device;

    /// One head of six channels, so that the network is six wide.
    fn config() -> FluxConfig {
        FluxConfig {
            attention_head_dim: 6,
            num_attention_heads: 1,
            axes_dims_rope: [2, 2, 2],
            ..FluxConfig::default()
        }
    }

    fn zeros(size: &[i64]) -> Tensor {
        Tensor::zeros(size, (Kind::Float, Device::Cpu))
    }

    /// What `load` makes of tensors that are zero but for those `given`.
    fn loaded<T>(load: impl Fn(&Weights) -> Result<T>, given: &[(&str, Tensor)]) -> T {
        let asked = asked_tensors(Path::new("none"), &Value::Null, |weights| {
            load(weights).map(drop)
        });
        let mut tensors: BTreeMap<String, Tensor> = asked
            .into_iter()
            .map(|(name, tensor)| (name, tensor.zeros_like()))
            .collect();
        for (name, tensor) in given {
            let former = tensors.insert((*name).to_owned(), tensor.shallow_clone());
            assert_eq!(former.map(|it| it.size()), Some(tensor.size()), "{name}");
        }
        let checkpoint = Checkpoint::from_tensors(tensors, Value::Null);
        load(&checkpoint.weights(Target::CPU_F32)).unwrap()
    }

    /// `values` and zeros behind them.
    fn padded(values: &Value, count: i64) -> Tensor {
        let mut values = numbers(values);
        values.resize(count as usize, 0.0);
        Tensor::from_slice(&values).to_kind(Kind::Float)
    }

    /// Specification `flux`, trap 10: whole networks with small values hardly tell the two forms of GELU apart.
    #[test]
    fn feed_forward_layers_use_the_tanh_form_of_gelu() {
        let (config, peers, vector) = (config(), Peers::default(), flux_vector("gelu"));
        let bias = padded(&vector["x"], config.hidden());
        let nothing = zeros(&[1, 6]);
        for names in [&IMAGE, &TEXT] {
            let first = format!("{}.net.0.proj.bias", names.feed_forward);
            let given = [(first.as_str(), bias.shallow_clone())];
            let stream = loaded(|it| StreamLayers::load(it, names, &config, &peers), &given);
            let [_, vectors] = stream.modulation.double(&nothing).unwrap();
            let fed = stream.feed(&zeros(&[1, 1, 6]), &vectors).unwrap();
            assert_begins(names.feed_forward, &fed, &vector["tanh"], 1e-6);
        }
        // The gate is one, and the output is the first six of the hidden channels.
        let gate = Tensor::cat(&[zeros(&[12]), zeros(&[6]) + 1.0], 0);
        let output = Tensor::eye(30, (Kind::Float, Device::Cpu)).narrow(0, 6, 6);
        let given = [
            ("norm.linear.bias", gate),
            ("proj_mlp.bias", bias),
            ("proj_out.weight", output.contiguous()),
        ];
        let shard = Shard::default();
        let block = loaded(|it| SingleBlock::load(it, &config, &shard), &given);
        let rotary = FluxPositions::text(1).rotary(&config, Device::Cpu).unwrap();
        let places = Places { rotary, real: None };
        let vectors = block.modulation(&nothing).unwrap();
        let found = block.forward(zeros(&[1, 1, 6]), &vectors, &places).unwrap();
        assert_begins("single block", &found, &vector["tanh"], 1e-6);
    }

    /// Specification `flux`, trap 11: queries and keys so small that the epsilon of their norms shows.
    #[test]
    fn heads_are_normalised_with_the_epsilon_of_the_reference() {
        let vector = flux_vector("qk_norm");
        let config = FluxConfig {
            attention_head_dim: 4,
            axes_dims_rope: [0, 2, 2],
            ..config()
        };
        let weight = Tensor::from_slice(&[1.0_f32, 2.0, 0.5, 1.0]);
        for names in [IMAGE_NAMES, TEXT_NAMES] {
            let [query, key, _, query_norm, key_norm] = names;
            let biases = [query, key].map(|name| format!("{name}.bias"));
            let weights = [query_norm, key_norm].map(|name| format!("{name}.weight"));
            let small = padded(&vector["x"], 4);
            let given = biases
                .iter()
                .map(|name| (name.as_str(), small.shallow_clone()));
            let norms = weights
                .iter()
                .map(|name| (name.as_str(), weight.shallow_clone()));
            let given: Vec<_> = given.chain(norms).collect();
            let peers = Peers::default();
            let layers = loaded(|it| Projections::load(it, names, &config, &peers), &given);
            let [queries, keys, _] = layers.project(&zeros(&[1, 1, 4])).unwrap();
            let rotary = FluxPositions::text(1).rotary(&config, Device::Cpu).unwrap();
            for (input, norm) in [(&queries, &layers.query_norm), (&keys, &layers.key_norm)] {
                let heads = joint_heads(&[(input, norm)], 1, &rotary).unwrap();
                let found = Vec::<f64>::try_from(heads.to_kind(Kind::Double).view([-1])).unwrap();
                assert_near(query, &found, &numbers(&vector["eps_1e-6"]), 1e-6);
            }
        }
    }
}
