//! The diffusion networks that there are, and what each asks for beside the sample and the time.

use super::{PerLevel, Times, wrong};
use crate::models::{dit, mmdit, unet};
use crate::{Builder, DType, GraphError, Stage, Tensor};

/// A network by its configuration.
#[derive(Clone, Debug, PartialEq)]
pub enum Network {
    /// `UNet2DConditionModel`.
    Unet(unet::Config),
    /// `DiTTransformer2DModel`.
    Dit(dit::Config),
    /// `SD3Transformer2DModel`.
    Mmdit(mmdit::Config),
}

/// Sizes of one run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Sizes {
    /// Pictures.
    pub batch: usize,
    /// Height and width of the latent.
    pub latent: [usize; 2],
    /// Rows of `encoder_hidden_states`; 0 for a network without.
    pub context: usize,
}

/// Conditions, as inputs of a graph.
pub(super) struct Inputs<'g> {
    context: Option<Tensor<'g>>,
    pooled: Option<Tensor<'g>>,
    labels: Option<Tensor<'g>>,
}

impl<'g> Inputs<'g> {
    /// Those that the network asks for, with `rows` of each.
    pub fn declare(g: &'g Builder, network: &Network, sizes: Sizes, rows: usize) -> Self {
        let f32s = |name: &str, shape: &[usize]| {
            g.input(name, crate::Shape::fixed(shape), DType::F32, Stage::Request)
        };
        let context =
            network.context_width().map(|c| f32s("encoder_hidden_states", &[rows, sizes.context, c]));
        let pooled = network.pooled_width().map(|p| f32s("pooled_projections", &[rows, p]));
        let labels = network.classes().map(|_| g.input("class_labels", [rows], DType::I32, Stage::Request));
        Inputs { context, pooled, labels }
    }
}

impl Network {
    /// The network's name in errors.
    pub fn name(&self) -> &'static str {
        match self {
            Network::Unet(_) => unet::NAME,
            Network::Dit(_) => dit::NAME,
            Network::Mmdit(_) => mmdit::NAME,
        }
    }

    /// Checks what the builders rely on.
    ///
    /// # Errors
    /// Names the field that is impossible or not supported.
    pub fn validate(&self) -> Result<(), GraphError> {
        match self {
            Network::Unet(config) => config.validate(),
            Network::Dit(config) => config.validate(),
            Network::Mmdit(config) => config.validate(),
        }
    }

    /// Channels of the sample.
    pub fn in_channels(&self) -> usize {
        match self {
            Network::Unet(config) => config.in_channels,
            Network::Dit(config) => config.in_channels,
            Network::Mmdit(config) => config.in_channels,
        }
    }

    /// Channels of the answer.
    pub fn out_channels(&self) -> usize {
        match self {
            Network::Unet(config) => config.out_channels,
            Network::Dit(config) => config.out_channels(),
            Network::Mmdit(config) => config.out_channels(),
        }
    }

    /// Width of `encoder_hidden_states [B, L, width]`, where the network reads them.
    pub fn context_width(&self) -> Option<usize> {
        match self {
            Network::Unet(config) => Some(config.context_width()),
            Network::Dit(_) => None,
            Network::Mmdit(config) => Some(config.joint_attention_dim),
        }
    }

    /// Width of `pooled_projections [B, width]`, where the network reads them.
    pub fn pooled_width(&self) -> Option<usize> {
        match self {
            Network::Mmdit(config) => Some(config.pooled_projection_dim),
            _ => None,
        }
    }

    /// Classes of `class_labels [B]`, where the network reads them; the id after the last is "no class".
    pub fn classes(&self) -> Option<usize> {
        match self {
            Network::Dit(config) => config.num_embeds_ada_norm,
            _ => None,
        }
    }

    /// Height and width of the samples of training, where the configuration says them.
    pub fn sample_size(&self) -> Option<[usize; 2]> {
        match self {
            Network::Unet(config) => match config.sample_size.as_ref()? {
                PerLevel::All(side) => Some([*side; 2]),
                PerLevel::Each(sides) => sides[..].try_into().ok(),
            },
            Network::Dit(config) => Some([config.sample_size; 2]),
            Network::Mmdit(config) => Some([config.sample_size; 2]),
        }
    }

    /// What a side of the sample must be a multiple of.
    pub fn side_step(&self) -> usize {
        match self {
            Network::Unet(config) => config.downsampling(),
            Network::Dit(config) => config.patch_size,
            Network::Mmdit(config) => config.patch_size,
        }
    }

    /// Whether the network predicts the velocity of a straight path (flow matching), and not noise.
    pub fn is_flow(&self) -> bool {
        matches!(self, Network::Mmdit(_))
    }

    pub(super) fn check_sizes(&self, sizes: Sizes) -> Result<(), GraphError> {
        if let Network::Mmdit(config) = self
            && sizes.latent.iter().any(|&side| side / config.patch_size > config.pos_embed_max_size)
        {
            let most = config.pos_embed_max_size * config.patch_size;
            let [h, w] = sizes.latent;
            let expected = format!("sides of at most pos_embed_max_size * patch_size = {most}");
            return Err(wrong(mmdit::NAME, "sample", format!("{h} x {w}"), expected));
        }
        Ok(())
    }

    /// Records the network: `sample [B, h, w, C]` → its answer, `[B, h, w, C']` or that with both directions split into
    /// patches, `[B, h/p, p, w/p, p, C']`.
    pub(super) fn record<'g>(
        &self,
        g: &'g Builder,
        sample: Tensor<'g>,
        times: Times<'g>,
        inputs: &Inputs<'g>,
    ) -> Tensor<'g> {
        // `Inputs::declare` declares what each network asks for; a constant stands in for what it does not.
        let given = |input: Option<Tensor<'g>>| input.unwrap_or_else(|| g.constant([1], vec![0.0]));
        match self {
            Network::Unet(config) => unet::record(g, config, sample, times, given(inputs.context)),
            Network::Dit(config) => dit::record(g, config, sample, times, given(inputs.labels)),
            Network::Mmdit(config) => {
                mmdit::record(g, config, sample, times, given(inputs.context), given(inputs.pooled))
            }
        }
    }
}
