//! The networks of a model: what each is built from, whose weights it takes, and where it runs.

use super::Selftok;
use super::network::Bound;
use crate::model::{Checkpoint, SelftokFiles};
use crate::{Device, Error};
use selftok_graph::models::selftok::decoder;
use selftok_graph::models::{autoencoder, selftok};
use selftok_graph::{Graph, Plan, Program, compile};
use selftok_loader::TensorSource;
use std::sync::Arc;

/// A network of a Selftok model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The autoencoder's encoder: pixels to latents.
    ToLatent,
    /// Encoder and quantizer: latents to tokens.
    Encoder,
    /// The diffusion decoder: tokens and noise to latents, in many steps.
    Diffusion,
    /// The same with a memory, for solvers that take fewer steps.
    DiffusionWithHistory,
    /// The renderer: tokens to latents, in one step.
    Renderer,
    /// The autoencoder's decoder: latents to pixels.
    ToPixels,
}

/// Most grid points of one run of the sampler; a longer grid runs in pieces.
pub(super) const MAX_GRID: usize = 64;

impl Part {
    /// All of them, in the order of a round trip.
    pub const ALL: [Part; 6] = [
        Part::ToLatent,
        Part::Encoder,
        Part::Diffusion,
        Part::DiffusionWithHistory,
        Part::Renderer,
        Part::ToPixels,
    ];

    /// The weights that the network is bound to: a view of the file, nothing is read.
    ///
    /// # Errors
    /// If the model has no such file.
    fn weights(self, files: &SelftokFiles) -> Result<Arc<dyn TensorSource>, Error> {
        Ok(match self {
            Part::ToLatent | Part::ToPixels => files.vae()?.weights.clone(),
            Part::Encoder => files.encoder()?.weights.clone(),
            Part::Diffusion | Part::DiffusionWithHistory => files.diffusion()?.weights.clone(),
            Part::Renderer => files.renderer()?.weights.clone(),
        })
    }

    /// The network's program.
    fn program(self, files: &SelftokFiles, batch: usize) -> Result<Program, Error> {
        let config = files.config();
        let (pixels, latent) = ([config.image_size; 2], [config.latent_size; 2]);
        Ok(match self {
            Part::ToLatent => autoencoder::encode(&files.vae()?.config, batch, pixels, false)?.into(),
            Part::Encoder => selftok::encoder(config, batch, latent, false)?.into(),
            Part::Diffusion => {
                let start = decoder::start(config, batch, latent)?;
                let sample = decoder::sample(config, batch, latent, MAX_GRID, Default::default())?;
                Program::new("diffusion", vec![start, sample])?
            }
            Part::DiffusionWithHistory => {
                let start = decoder::start_with_history(config, batch, latent)?;
                let sample =
                    decoder::sample_with_history(config, batch, latent, MAX_GRID, Default::default())?;
                Program::new("diffusion", vec![start, sample])?
            }
            Part::Renderer => selftok::renderer(config, batch, false)?.into(),
            Part::ToPixels => autoencoder::decode(&files.vae()?.config, batch, latent, false)?.into(),
        })
    }
}

impl Selftok {
    /// Compiles and binds networks now instead of when they are first needed.
    ///
    /// # Errors
    /// If the model lacks one of them, or it cannot be bound.
    pub fn prepare(&self, parts: &[Part]) -> Result<(), Error> {
        // What is missing first, for binding takes long.
        for part in parts {
            part.weights(&self.files)?;
        }
        parts.iter().try_for_each(|part| self.network(*part).map(drop))
    }

    /// A bound network.
    pub(super) fn network(&self, part: Part) -> Result<&Bound, Error> {
        self.networks[part as usize].get(|| {
            let (weights, device) = (part.weights(&self.files)?, self.device_of(part));
            let program = part.program(&self.files, self.batch)?;
            Bound::new(self.compile(&program, device)?, weights, device)
        })
    }

    fn device_of(&self, part: Part) -> &Device {
        match part {
            Part::ToLatent | Part::Encoder => &self.device,
            Part::Diffusion | Part::DiffusionWithHistory | Part::Renderer | Part::ToPixels => {
                &self.decoder_device
            }
        }
    }

    fn compile(&self, program: &Program, device: &Device) -> Result<Plan, Error> {
        let mut target = device.target();
        target.off.extend(self.off.iter().cloned());
        Ok(compile(program, &target)?)
    }

    /// The programs of the networks that the files allow.
    ///
    /// # Errors
    /// If the configuration is impossible.
    pub fn programs(&self) -> Result<Vec<Program>, Error> {
        self.parts().map(|part| part.program(&self.files, self.batch)).collect()
    }

    /// The compiled plans of the networks that the files allow, without binding any: what `inspect` prints.
    ///
    /// # Errors
    /// If a network cannot be compiled.
    pub fn plans(&self) -> Result<Vec<Plan>, Error> {
        let plan = |part: Part| self.compile(&part.program(&self.files, self.batch)?, self.device_of(part));
        self.parts().map(plan).collect()
    }

    /// The networks that the files allow.
    fn parts(&self) -> impl Iterator<Item = Part> {
        Part::ALL.into_iter().filter(|part| match part {
            Part::ToLatent | Part::ToPixels => self.has_pictures(),
            Part::Encoder => self.can_encode(),
            Part::Diffusion => self.files.diffusion().is_ok(),
            // One network is not listed twice.
            Part::DiffusionWithHistory => false,
            Part::Renderer => self.can_render(),
        })
    }
}

/// Checks that a checkpoint holds exactly what its networks need.
pub(crate) fn check_files(files: &SelftokFiles) -> Result<(), Error> {
    use crate::networks::check_weights;
    use selftok_loader::{DTypeClass, Pattern};
    let config = files.config();
    let latent = [config.latent_size; 2];
    let mut ignore = crate::model::unused();
    // Built and saved by the original, read by nobody: the last block's tokens are modulated by time alone.
    let last = config.decoder.depth - 1;
    ignore.push(Pattern::new(&format!("model.joint_blocks.{last}.context_block.t_embedder.*")));
    // As is the image stream of the encoder's last block, beyond the keys and values that the queries see.
    let last = config.encoder.depth - 1;
    for part in ["attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"] {
        ignore.push(Pattern::new(&format!("encoder.blocks.{last}.{part}.*")));
    }
    let checkpoint = |checkpoint: &Checkpoint, graph: Graph, unread: &[Pattern]| -> Result<(), Error> {
        let mut graphs = vec![graph];
        if checkpoint.description.encoder.is_some() {
            graphs.push(selftok::encoder(config, 1, latent, false)?);
        }
        check_weights(&*checkpoint.weights, &graphs, DTypeClass::Float, unread)
    };
    if let Ok(tokenizer) = files.diffusion() {
        let graph = selftok::decoder::velocity(config, 1, latent, Default::default())?;
        checkpoint(tokenizer, graph, &ignore)?;
    }
    if let Ok(renderer) = files.renderer() {
        // The canvas has positions of its own; the table of the diffusion decoder is saved beside them.
        ignore.push(Pattern::new("model.pos_embed"));
        checkpoint(renderer, selftok::renderer(config, 1, false)?, &ignore)?;
    }
    if let Ok(vae) = files.vae() {
        let graphs = [
            autoencoder::encode(&vae.config, 1, [config.image_size; 2], false)?,
            autoencoder::decode(&vae.config, 1, latent, false)?,
        ];
        check_weights(&*vae.weights, &graphs, DTypeClass::Float, &[])?;
    }
    Ok(())
}
