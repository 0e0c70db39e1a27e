//! An autoencoder (diffusers' `AutoencoderKL`) as a black box: which direction runs, the name of the input says.
//!
//! `pixel_values` are encoded to the scaled `latent` that a diffusion network works on, and `latent` is decoded. The
//! reference library's own functions, which know no scale, go by their argument's names: `sample` is encoded and decoded again
//! (`forward`), `z` decoded (`decode`), both to `out`. Of the encoder's distribution the mean is taken, as at inference.

use super::{Architecture, Entry, Folder, NamedTensors, NetworkError, Runner, Values, check_weights};
use crate::Error;
use crate::model::Vae;
use selftok_graph::models::autoencoder;
use selftok_loader::DTypeClass;

struct Autoencoder {
    vae: Vae,
    signature: String,
}

/// Opens the folder of an autoencoder, and checks every tensor.
pub(super) fn open(folder: &Folder<'_>) -> Result<Box<dyn Architecture>, Error> {
    let vae = Vae::open(folder.path)?;
    let config = &vae.config;
    let side = config.downsampling();
    let graphs =
        [autoencoder::encode(config, 1, [side; 2], false)?, autoencoder::decode(config, 1, [1; 2], false)?];
    check_weights(&*vae.weights, &graphs, DTypeClass::Float, &[])?;
    let (pixels, latent) = (config.in_channels, config.latent_channels);
    let signature = format!(
        "pixel_values [B, {pixels}, {side}*h, {side}*w] (to encode), or latent [B, {latent}, h, w] (to decode), or sample \
         [B, {pixels}, {side}*h, {side}*w] (to encode and decode), or z [B, {latent}, h, w] (to decode, not scaled)"
    );
    Ok(Box::new(Autoencoder { vae, signature }))
}

const INPUTS: [&str; 4] = ["pixel_values", "latent", "sample", "z"];

impl Autoencoder {
    /// The one input there must be.
    fn input(&self, inputs: &NamedTensors) -> Result<&'static str, Error> {
        let mut given = INPUTS.into_iter().filter(|name| inputs.has(name));
        let Some(first) = given.next() else {
            let (name, given) = ("pixel_values".into(), inputs.describe());
            return Err(NetworkError::Missing { name, given, expected: self.signature.clone() }.into());
        };
        match given.next() {
            Some(second) => {
                let expected = format!("one input: {}", self.signature);
                Err(NetworkError::Unexpected { name: second.into(), expected }.into())
            }
            None => Ok(first),
        }
    }

    /// Checks the channels of an input, by the name that the caller knows.
    fn check_channels(&self, inputs: &NamedTensors, name: &'static str) -> Result<(), Error> {
        let config = &self.vae.config;
        let channels = match name {
            "pixel_values" | "sample" => config.in_channels,
            _ => config.latent_channels,
        };
        let [_, found, ..] = inputs.dims::<4>(name, &self.signature)?;
        if found != channels {
            let found = inputs.get(name).map_or(vec![], |tensor| tensor.shape.clone());
            let expected = format!("{channels} channels: {}", self.signature);
            return Err(NetworkError::Shape { name: name.into(), found, expected }.into());
        }
        Ok(())
    }

    /// An input of floats, each changed.
    fn changed(
        &self,
        inputs: &NamedTensors,
        (from, to): (&'static str, &str),
        change: impl Fn(f32) -> f32,
    ) -> Result<NamedTensors, Error> {
        let dims = inputs.dims::<4>(from, &self.signature)?;
        let values = inputs.get(from).map_or(vec![], |tensor| tensor.values.to_f32());
        NamedTensors::new().with(to, &dims, Values::F32(values.into_iter().map(change).collect()))
    }
}

impl Architecture for Autoencoder {
    fn signature(&self) -> &str {
        &self.signature
    }

    fn inputs(&self) -> &[&'static str] {
        &INPUTS
    }

    fn outputs(&self) -> &[&'static str] {
        &["latent", "mean", "pixel_values", "out"]
    }

    fn entry(&self, inputs: &NamedTensors) -> Result<Entry, Error> {
        let config = &self.vae.config;
        let graph = match inputs.has("pixel_values") {
            true => {
                let [batch, _, h, w] = inputs.dims("pixel_values", &self.signature)?;
                autoencoder::encode(config, batch, [h, w], false)?
            }
            false => {
                let [batch, _, h, w] = inputs.dims("latent", &self.signature)?;
                autoencoder::decode(config, batch, [h, w], false)?
            }
        };
        Ok(Entry { graph, weights: self.vae.weights.clone(), outputs: &[] })
    }

    fn slots(&self, inputs: &NamedTensors) -> Result<Vec<(&'static str, u32)>, Error> {
        let batch = inputs.iter().next().and_then(|(_, tensor)| tensor.shape.first().copied());
        Ok(vec![("batch", batch.unwrap_or(0) as u32)])
    }

    fn run(&self, inputs: &NamedTensors, runner: &Runner<'_>) -> Result<NamedTensors, Error> {
        let (scale, shift) = (self.vae.config.scaling_factor, self.vae.config.shift());
        let renamed = |results: &NamedTensors| self.changed(results, ("pixel_values", "out"), |x| x);
        let input = self.input(inputs)?;
        self.check_channels(inputs, input)?;
        match input {
            "pixel_values" => {
                let mut results = runner.run(inputs)?;
                let mean = self.changed(&results, ("latent", "mean"), |x| x / scale + shift)?;
                results.append(mean);
                Ok(results)
            }
            "latent" => runner.run(inputs),
            "sample" => {
                let pixels = self.changed(inputs, ("sample", "pixel_values"), |x| x)?;
                renamed(&runner.run(&runner.run(&pixels)?)?)
            }
            _ => {
                let latent = self.changed(inputs, ("z", "latent"), |x| (x - shift) * scale)?;
                renamed(&runner.run(&latent)?)
            }
        }
    }
}
