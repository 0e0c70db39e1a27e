//! A diffusers autoencoder folder: `config.json` of an `AutoencoderKL`, and its weights.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use selftok_graph::models::{autoencoder, selftok};
use selftok_loader::{Error, Result, TensorSource, Weights, read_json};

/// An open autoencoder.
#[derive(Debug)]
pub struct Vae {
    /// The folder.
    pub path: PathBuf,
    /// Its configuration.
    pub config: autoencoder::Config,
    /// Its tensors.
    pub weights: Arc<Weights>,
}

impl Vae {
    /// Opens a diffusers autoencoder folder; the folder of a whole pipeline, with `vae/` in it, will do.
    ///
    /// Errors: `config.json` or the weights are missing, unsupported, or contradict each other.
    pub fn open(path: &Path) -> Result<Self> {
        let inner = path.join("vae");
        let folder = if inner.join("config.json").exists() { inner } else { path.to_owned() };
        let config_path = folder.join("config.json");
        let config: autoencoder::Config = read_json(&config_path)?;
        config.validate().map_err(|error| Error::config(&config_path, error.to_string()))?;
        let weights = Weights::open(&folder)?;

        let widths = &config.block_out_channels;
        let (first, last) = (widths[0], widths[widths.len() - 1]);
        let needed = [
            ("encoder.conv_in.weight", [first, config.in_channels]),
            ("encoder.conv_out.weight", [2 * config.latent_channels, last]),
            ("decoder.conv_in.weight", [last, config.latent_channels]),
            ("decoder.conv_out.weight", [config.out_channels, first]),
        ];
        for (name, [out_channels, in_channels]) in needed {
            let found = weights.require(name)?.shape;
            let wanted = [out_channels, in_channels, 3, 3];
            if found != wanted {
                let what = format!("it asks for {name} of shape {wanted:?}, the file has {found:?}");
                return Err(Error::config(&config_path, what));
            }
        }
        Ok(Vae { path: folder, config, weights: Arc::new(weights) })
    }

    /// Checks that the latents of this autoencoder are those of a Selftok model.
    ///
    /// Errors: other channels or another scale; the message has both numbers.
    pub fn serves(&self, model: &selftok::Config) -> Result<()> {
        let path = self.path.display();
        let hint =
            "the released files need the autoencoder of stabilityai/stable-diffusion-3-medium-diffusers";
        if self.config.latent_channels != model.latent_channels {
            return Err(Error::pairing(format!(
                "{path}: this autoencoder has latents of {} channels, the model needs {}; {hint}",
                self.config.latent_channels, model.latent_channels
            )));
        }
        if self.config.downsampling() != model.downscale() {
            return Err(Error::pairing(format!(
                "{path}: this autoencoder divides a picture by {}, the model needs {}; {hint}",
                self.config.downsampling(),
                model.downscale()
            )));
        }
        if self.config.in_channels != 3 || self.config.out_channels != 3 {
            return Err(Error::pairing(format!(
                "{path}: this autoencoder is not for pictures of 3 channels; {hint}"
            )));
        }
        Ok(())
    }
}
