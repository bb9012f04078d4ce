//! The second half of a block: a gated feed-forward layer, or a mixture of such.

use multiversion::multiversion;
use storyloom_nn::checkpoint::Weights;
use storyloom_nn::error::{ModelError, Result};
use storyloom_nn::host::{on_host, values, values_mut};
use storyloom_nn::layers::{Linear, exp, for_each_row};
use storyloom_nn::shard::{Part, Peers};
use tch::{Device, Kind, Tensor};

use super::config::{ExpertConfig, LanguageConfig};

/// Either kind.
#[derive(Debug)]
pub(super) enum FeedForward {
    Plain(Gated),
    Experts(Experts),
}

/// `down(silu(gate(x)) * up(x))`.
#[derive(Debug)]
pub(super) struct Gated {
    gate: Linear,
    up: Linear,
    down: Linear,
}

impl FeedForward {
    pub(super) fn load(
        weights: &Weights,
        config: &LanguageConfig,
        peers: &Peers,
        block: i64,
    ) -> Result<Self> {
        let experts = config.experts.as_ref();
        if let Some(experts) = experts.filter(|experts| experts.in_block(block)) {
            return Ok(Self::Experts(Experts::load(
                weights, config, experts, peers,
            )?));
        }
        let sizes = [config.hidden_size, config.intermediate_size];
        Ok(Self::Plain(Gated::load(
            weights,
            sizes,
            peers,
            config.feed_bias,
        )?))
    }

    /// `[batch, tokens, width]` to the same, f32; one sum over the ranks.
    pub(super) fn forward(&self, hidden: &Tensor) -> Result<Tensor> {
        match self {
            Self::Plain(layer) => layer.forward(hidden),
            Self::Experts(layer) => layer.forward(hidden),
        }
    }
}

/// Refuses a hidden width that the ranks cannot share.
fn check_share(name: &str, width: i64, part: Part) -> Result<()> {
    if width % part.of == 0 {
        return Ok(());
    }
    let reason = format!(
        "{} ranks cannot share {name} = {width}; use a divisor",
        part.of
    );
    Err(ModelError::input("tensor parallel", reason))
}

impl Gated {
    /// Loads `gate_proj`, `up_proj` and `down_proj` for `[width, hidden width]`.
    pub(super) fn load(
        weights: &Weights,
        [width, inner]: [i64; 2],
        peers: &Peers,
        bias: bool,
    ) -> Result<Self> {
        check_share("intermediate_size", inner, peers.part())?;
        let input = |name: &str| {
            Linear::load_outputs_with(&weights.sub(name), width, inner, peers.part(), bias)
        };
        let down = weights.sub("down_proj");
        Ok(Self {
            gate: input("gate_proj")?,
            up: input("up_proj")?,
            down: Linear::load_inputs_with(&down, inner, width, peers, bias)?,
        })
    }

    /// One whose partial results the caller sums over the ranks.
    fn load_part(weights: &Weights, [width, inner]: [i64; 2], part: Part) -> Result<Self> {
        let input =
            |name: &str| Linear::load_outputs_with(&weights.sub(name), width, inner, part, false);
        Ok(Self {
            gate: input("gate_proj")?,
            up: input("up_proj")?,
            down: Linear::load_input_part(&weights.sub("down_proj"), inner, width, part)?,
        })
    }

    /// `[..., width]` to the same, in the kind of the products. Where ranks share the layer each has a
    /// part of the inner channels, and the result is one sum over them, in f32.
    pub(super) fn forward(&self, hidden: &Tensor) -> Result<Tensor> {
        let [gate, up] = Linear::forward_together([&self.gate, &self.up], hidden)?;
        self.down.forward_few(&gated(gate, &up)?)
    }
}

/// `silu(gate) * up`; nothing else may use `gate`.
fn gated(mut gate: Tensor, up: &Tensor) -> Result<Tensor> {
    if !(on_host(&gate) && on_host(up) && gate.is_contiguous() && up.is_contiguous()) {
        return Ok(gate.f_silu()?.f_mul(up)?);
    }
    let width = gate.size().last().map_or(1, |&width| width.max(1) as usize);
    let up = values(up);
    for_each_row(values_mut(&mut gate), width, |row, gate| {
        gate_row(gate, &up[row * width..][..width]);
    });
    Ok(gate)
}

#[multiversion(targets("x86_64+avx2", "x86_64+avx512f"))]
fn gate_row(gate: &mut [f32], up: &[f32]) {
    for (gate, &up) in gate.iter_mut().zip(up) {
        let x = *gate;
        *gate = x / (1.0 + exp(-x)) * up;
    }
}

/// A mixture: every token goes to the experts that a router chooses for it.
#[derive(Debug)]
pub(super) struct Experts {
    router: Linear,
    experts: Vec<Gated>,
    config: ExpertConfig,
    /// The ranks that hold the other parts of every expert.
    peers: Peers,
}

impl Experts {
    fn load(
        weights: &Weights,
        config: &LanguageConfig,
        experts: &ExpertConfig,
        peers: &Peers,
    ) -> Result<Self> {
        let width = config.hidden_size;
        check_share("moe_intermediate_size", experts.width, peers.part())?;
        let load = |index| {
            let place = weights.sub("experts").sub(index);
            Gated::load_part(&place, [width, experts.width], peers.part())
        };
        Ok(Self {
            router: Linear::load_without_bias(&weights.sub("gate"), width, experts.count)?,
            experts: (0..experts.count).map(load).collect::<Result<_>>()?,
            config: experts.clone(),
            peers: peers.clone(),
        })
    }

    /// `[batch, tokens, width]` to the same, f32: each token by the experts that the router chose; one sum
    /// over the ranks.
    fn forward(&self, hidden: &Tensor) -> Result<Tensor> {
        let size = hidden.size();
        let hidden = hidden.f_reshape([-1, size.last().copied().unwrap_or(1)])?;
        let (routes, shares) = self.routes(&hidden)?;
        let options = (Kind::Float, hidden.device());
        let mut output = Tensor::f_zeros(hidden.size(), options)?;
        // In the order of the experts, so that a token's sum does not depend on its neighbours.
        for (expert, layer) in self.experts.iter().enumerate() {
            let tokens = &routes[expert];
            if tokens.is_empty() {
                continue;
            }
            let rows: Vec<i64> = tokens.iter().map(|&(token, _)| token).collect();
            let places: Vec<i64> = tokens.iter().map(|&(_, place)| place).collect();
            let place = |list: &[i64]| -> Result<Tensor> {
                Ok(Tensor::f_from_slice(list)?.f_to_device(hidden.device())?)
            };
            let rows = place(&rows)?;
            let share = shares
                .f_index_select(0, &place(&places)?)?
                .f_unsqueeze(-1)?;
            let result = layer.forward(&hidden.f_index_select(0, &rows)?)?;
            output =
                output.f_index_add_(0, &rows, &result.f_to_kind(Kind::Float)?.f_mul(&share)?)?;
        }
        Ok(self.peers.sum(output)?.f_view(size.as_slice())?)
    }

    /// For every expert its tokens, each with the place of its share in f32 `[tokens * chosen]`.
    #[expect(clippy::type_complexity, reason = "used in one place")]
    fn routes(&self, hidden: &Tensor) -> Result<(Vec<Vec<(i64, i64)>>, Tensor)> {
        let scores = self.router.forward_few(hidden)?.f_to_kind(Kind::Float)?;
        let shares = scores.f_softmax(-1, Kind::Float)?;
        let (mut shares, chosen) = shares.f_topk(self.config.chosen, -1, true, true)?;
        if self.config.normalised {
            let total = shares.f_sum_dim_intlist([-1_i64].as_slice(), true, Kind::Float)?;
            shares = shares.f_div(&total)?;
        }
        let chosen = chosen.f_to_device(Device::Cpu)?.f_reshape([-1])?;
        let chosen: Vec<i64> = Vec::try_from(&chosen)?;
        let mut routes = vec![Vec::new(); self.experts.len()];
        for (place, &expert) in chosen.iter().enumerate() {
            let place = place as i64;
            routes[expert as usize].push((place / self.config.chosen, place));
        }
        Ok((routes, shares.f_reshape([-1])?))
    }
}
