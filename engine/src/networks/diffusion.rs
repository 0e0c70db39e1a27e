//! UNet, DiT and MMDiT as black boxes: a noisy `sample` and its `timestep` in, the network's answer out.

use super::{Architecture, Entry, Folder, NamedTensors, NetworkError, Values, check_weights};
use crate::Error;
use selftok_graph::models::diffusion::{self, Network, Sizes};
use selftok_graph::models::{dit, mmdit, unet};
use selftok_loader::{DTypeClass, Error as LoaderError, Pattern, Weights};
use std::sync::Arc;

/// An open diffusion network.
pub(crate) struct Diffusion {
    pub network: Network,
    pub weights: Arc<Weights>,
    signature: String,
}

/// The class of a configuration that does not name one, by a field that only this class has.
pub(super) fn class_of(config: &serde_json::Value) -> Option<&'static str> {
    let fields = [
        ("joint_attention_dim", "SD3Transformer2DModel"),
        ("num_embeds_ada_norm", "DiTTransformer2DModel"),
        ("cross_attention_dim", "UNet2DConditionModel"),
    ];
    fields.iter().find(|(field, _)| config.get(field).is_some()).map(|(_, class)| *class)
}

/// Opens a UNet.
pub(super) fn open_unet(folder: &Folder<'_>) -> Result<Box<dyn Architecture>, Error> {
    Ok(Box::new(Diffusion::open(folder, Network::Unet(folder.config::<unet::Config>()?))?))
}

/// Opens a DiT.
pub(super) fn open_dit(folder: &Folder<'_>) -> Result<Box<dyn Architecture>, Error> {
    Ok(Box::new(Diffusion::open(folder, Network::Dit(folder.config::<dit::Config>()?))?))
}

/// Opens an MMDiT.
pub(super) fn open_mmdit(folder: &Folder<'_>) -> Result<Box<dyn Architecture>, Error> {
    Ok(Box::new(Diffusion::open(folder, Network::Mmdit(folder.config::<mmdit::Config>()?))?))
}

impl Diffusion {
    /// Opens whichever diffusion network a folder holds.
    ///
    /// # Errors
    /// If it holds none, or its files contradict each other.
    pub fn of_folder(folder: &Folder<'_>) -> Result<Diffusion, Error> {
        let class = folder.config.get("_class_name").and_then(serde_json::Value::as_str);
        match class.or(class_of(folder.config)) {
            Some("UNet2DConditionModel") => Self::open(folder, Network::Unet(folder.config()?)),
            Some("DiTTransformer2DModel" | "Transformer2DModel") => {
                Self::open(folder, Network::Dit(folder.config()?))
            }
            Some("SD3Transformer2DModel") => Self::open(folder, Network::Mmdit(folder.config()?)),
            other => Err(NetworkError::Unknown {
                path: folder.config_path(),
                field: "_class_name",
                value: other.unwrap_or("absent").into(),
                known: "UNet2DConditionModel, DiTTransformer2DModel, SD3Transformer2DModel".into(),
            }
            .into()),
        }
    }

    fn open(folder: &Folder<'_>, network: Network) -> Result<Diffusion, Error> {
        let named =
            |error: selftok_graph::GraphError| LoaderError::config(&folder.config_path(), error.to_string());
        network.validate().map_err(named)?;
        let weights = Arc::new(Weights::open(folder.path)?);
        let side = network.side_step();
        let graph = diffusion::forward(&network, Sizes { batch: 1, latent: [side; 2], context: 1 });
        let mut ignore = vec![];
        match &network {
            // The last block's text is only read: its queries are saved and used by nobody.
            Network::Mmdit(config) => {
                let last = config.num_layers - 1;
                for part in ["add_q_proj", "norm_added_q"] {
                    ignore.push(Pattern::new(&format!("transformer_blocks.{last}.attn.{part}.*")));
                }
            }
            // Sinusoids, which some files hold.
            Network::Dit(_) => ignore.push(Pattern::new("pos_embed.pos_embed")),
            Network::Unet(_) => {}
        }
        check_weights(&*weights, &[graph.map_err(named)?], DTypeClass::Weight, &ignore)?;
        let mut signature = format!("sample [B, {}, H, W], timestep [B]", network.in_channels());
        if let Some(width) = network.context_width() {
            signature += &format!(", encoder_hidden_states [B, L, {width}]");
        }
        if let Some(width) = network.pooled_width() {
            signature += &format!(", pooled_projections [B, {width}]");
        }
        if let Some(classes) = network.classes() {
            signature += &format!(", class_labels [B] of 0 to {classes}");
        }
        Ok(Diffusion { network, weights, signature })
    }

    /// Sizes of a run, from the shapes of its inputs.
    pub fn sizes(&self, inputs: &NamedTensors) -> Result<Sizes, Error> {
        let [batch, _, h, w] = inputs.dims("sample", &self.signature)?;
        let context = match self.network.context_width() {
            Some(_) => inputs.dims::<3>("encoder_hidden_states", &self.signature)?[1],
            None => 0,
        };
        Ok(Sizes { batch, latent: [h, w], context })
    }
}

impl Architecture for Diffusion {
    fn signature(&self) -> &str {
        &self.signature
    }

    fn inputs(&self) -> &[&'static str] {
        match self.network {
            Network::Unet(_) => &["sample", "timestep", "encoder_hidden_states"],
            Network::Dit(_) => &["sample", "timestep", "class_labels"],
            Network::Mmdit(_) => &["sample", "timestep", "encoder_hidden_states", "pooled_projections"],
        }
    }

    fn outputs(&self) -> &[&'static str] {
        &["out"]
    }

    fn entry(&self, inputs: &NamedTensors) -> Result<Entry, Error> {
        let graph = diffusion::forward(&self.network, self.sizes(inputs)?)?;
        Ok(Entry { graph, weights: self.weights.clone(), outputs: &[] })
    }

    fn slots(&self, _: &NamedTensors) -> Result<Vec<(&'static str, u32)>, Error> {
        Ok(vec![])
    }

    fn run(&self, inputs: &NamedTensors, runner: &super::Runner<'_>) -> Result<NamedTensors, Error> {
        // One time for all pictures, as a scalar or a single number, is that of each.
        let Some(time) = inputs.get("timestep").filter(|time| time.shape.len() < 2) else {
            return runner.run(inputs);
        };
        let [batch, ..] = inputs.dims::<4>("sample", &self.signature)?;
        let values = match &time.values {
            Values::F32(v) if v.len() == 1 => Values::F32(vec![v[0]; batch]),
            Values::I64(v) if v.len() == 1 => Values::I64(vec![v[0]; batch]),
            _ => return runner.run(inputs),
        };
        let mut spread = inputs.clone();
        spread.insert("timestep", &[batch], values)?;
        runner.run(&spread)
    }
}
