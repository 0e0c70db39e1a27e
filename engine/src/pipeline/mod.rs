//! Selftok end to end: pictures to tokens, and tokens to pictures in one step or by diffusion.
//!
//! A model is opened once: its files are mapped, every tensor's name and shape is checked against the networks, and
//! nothing else is read. Each network (autoencoder both ways, encoder, diffusion decoder, renderer) is compiled and
//! bound when it is first needed, so that a job pays only for what it uses.

mod decode;
mod network;
mod options;
mod parts;

pub use decode::Decode;
pub use options::Options;
pub use parts::Part;
pub(crate) use parts::check_files;

use crate::model::SelftokFiles;
use crate::picture::{resize, tensor};
use crate::{Device, Error, Picture, Tokens};
use network::Network;
use selftok_graph::models::selftok::Config;
use std::path::Path;
use std::sync::atomic::AtomicBool;

/// Watches a job and may stop it. The default does neither.
#[derive(Default)]
pub struct Control<'a> {
    /// Read between kernels: once true, the job stops with an error for which
    /// [`Error::is_cancelled`] holds.
    pub cancel: Option<&'a AtomicBool>,
    /// Called after every kernel with what is done and the whole, in parts of a run.
    pub progress: Option<&'a mut dyn FnMut(u64, u64)>,
}

/// What [`Selftok::encode_batch`] gives.
#[derive(Clone, Debug, PartialEq)]
pub struct Encoded {
    /// The ids.
    pub tokens: Tokens,
    /// For each id, the cosine of its code: `[B, K]`.
    pub score: Vec<f32>,
    /// For each id, by how much its code beats the second best: `[B, K]`. An id with a margin near rounding error
    /// may differ on another machine.
    pub margin: Vec<f32>,
}

/// An open Selftok model on a device. Cheap to share between threads; jobs on one device run one after another.
pub struct Selftok {
    files: SelftokFiles,
    device: Device,
    /// Decoding may use another compute type than encoding, whose ids must match.
    decoder_device: Device,
    batch: usize,
    off: Vec<String>,
    networks: [Network; Part::ALL.len()],
}

impl Selftok {
    /// Opens a model: a folder (`config.json`, `tokenizer.*`, `renderer.*`, `vae/`) or one released checkpoint.
    ///
    /// # Errors
    /// If a file cannot be read, is not what it seems, or does not hold exactly the tensors that the model needs.
    pub fn open(model: impl AsRef<Path>) -> Result<Selftok, Error> {
        Selftok::options().model(model.as_ref()).open()
    }

    /// Chooses files, device and batch size before opening.
    pub fn options() -> Options {
        Options::default()
    }

    /// Sizes of the networks.
    pub fn config(&self) -> &Config {
        self.files.config()
    }

    /// The open files.
    pub fn files(&self) -> &SelftokFiles {
        &self.files
    }

    /// The device.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Whether an encoder is there.
    pub fn can_encode(&self) -> bool {
        self.files.encoder().is_ok()
    }

    /// Whether a one-step renderer is there.
    pub fn can_render(&self) -> bool {
        self.files.renderer().is_ok()
    }

    /// Whether a diffusion decoder and its token schedule are there.
    pub fn can_diffuse(&self) -> bool {
        self.files.diffusion().is_ok() && self.files.tokens_per_stage().is_ok()
    }

    /// Whether an autoencoder is there, without which only latents can be had.
    pub fn has_pictures(&self) -> bool {
        self.files.vae().is_ok()
    }

    /// The tokens of a picture, which is resized and cropped as the original does.
    ///
    /// # Errors
    /// If the model has no encoder or autoencoder.
    pub fn encode(&self, picture: &Picture) -> Result<Tokens, Error> {
        Ok(self.encode_batch(std::slice::from_ref(picture), Control::default())?.tokens)
    }

    /// The tokens of several pictures, with the codes' scores and margins.
    ///
    /// # Errors
    /// As [`encode`](Self::encode); or if cancelled.
    pub fn encode_batch(&self, pictures: &[Picture], control: Control<'_>) -> Result<Encoded, Error> {
        self.prepare(&[Part::ToLatent, Part::Encoder])?;
        let size = self.config().image_size as u32;
        let pixels = 3 * (size * size) as usize;
        let mut values = vec![0.0; pictures.len() * pixels];
        for (picture, values) in pictures.iter().zip(values.chunks_exact_mut(pixels)) {
            tensor::to_nchw(&resize::preprocess(picture, size)?, values)?;
        }
        let mut counter = Counter::new(control, 2 * self.runs(pictures.len()));
        let latents = self.to_latents_counted(&values, pictures.len(), &mut counter)?;
        self.encode_latents_counted(&latents, pictures.len(), &mut counter)
    }

    /// Latents `[B, C, h, w]` of preprocessed pixels `[B, 3, H, W]` in [-1, 1].
    ///
    /// # Errors
    /// If there is no autoencoder, or the pixels are not whole pictures.
    pub fn to_latents(&self, pixels: &[f32]) -> Result<Vec<f32>, Error> {
        let count = whole("pixels", pixels.len(), self.pixels_numel())?;
        self.to_latents_counted(pixels, count, &mut Counter::new(Control::default(), self.runs(count)))
    }

    fn to_latents_counted(
        &self,
        pixels: &[f32],
        count: usize,
        counter: &mut Counter<'_>,
    ) -> Result<Vec<f32>, Error> {
        let net = self.network(Part::ToLatent)?;
        let mut latents = vec![0.0; count * self.latent_numel()];
        let (pixel, latent) = (self.pixels_numel(), self.latent_numel());
        for (pixels, latents) in
            pixels.chunks(self.batch * pixel).zip(latents.chunks_mut(self.batch * latent))
        {
            net.run(
                pixels.len() / pixel,
                &[("pixel_values", pixels.into())],
                &mut [("latent", latents.into())],
                counter,
            )?;
        }
        Ok(latents)
    }

    /// Tokens of latents `[B, C, h, w]` as [`to_latents`](Self::to_latents) gives them.
    ///
    /// # Errors
    /// If there is no encoder, or the latents are not whole ones.
    pub fn encode_latents(&self, latents: &[f32]) -> Result<Encoded, Error> {
        let count = whole("latents", latents.len(), self.latent_numel())?;
        self.encode_latents_counted(latents, count, &mut Counter::new(Control::default(), self.runs(count)))
    }

    fn encode_latents_counted(
        &self,
        latents: &[f32],
        count: usize,
        counter: &mut Counter<'_>,
    ) -> Result<Encoded, Error> {
        let config = self.config();
        let net = self.network(Part::Encoder)?;
        let k = config.num_tokens;
        let (mut ids, mut score, mut margin) =
            (vec![0i32; count * k], vec![0.0; count * k], vec![0.0; count * k]);
        // The features are an output of the network too; here nobody asks for them.
        let mut features = vec![0.0; self.batch.min(count) * k * config.encoder.query_size];
        let chunks = latents.chunks(self.batch * self.latent_numel());
        let results = ids
            .chunks_mut(self.batch * k)
            .zip(score.chunks_mut(self.batch * k))
            .zip(margin.chunks_mut(self.batch * k));
        for (latents, ((ids, score), margin)) in chunks.zip(results) {
            net.run(
                latents.len() / self.latent_numel(),
                &[("latent", latents.into())],
                &mut [
                    ("indices", ids.into()),
                    ("score", score.into()),
                    ("margin", margin.into()),
                    ("hidden_states", (&mut features[..]).into()),
                ],
                counter,
            )?;
        }
        let tokens = Tokens::new(ids.into_iter().map(|id| id as u32).collect(), count, k)?;
        Ok(Encoded { tokens, score, margin })
    }

    /// Pictures of tokens, in one step each.
    ///
    /// # Errors
    /// If the model has no renderer or autoencoder, or the tokens are not its.
    pub fn render(&self, tokens: &Tokens) -> Result<Vec<Picture>, Error> {
        self.render_batch(tokens, Control::default())
    }

    /// As [`render`](Self::render), watched.
    ///
    /// # Errors
    /// As [`render`](Self::render); or if cancelled.
    pub fn render_batch(&self, tokens: &Tokens, control: Control<'_>) -> Result<Vec<Picture>, Error> {
        self.prepare(&[Part::Renderer, Part::ToPixels])?;
        let mut counter = Counter::new(control, 2 * self.runs(tokens.batch()));
        let latents = self.render_latents_counted(tokens, &mut counter)?;
        self.to_pictures(&latents, &mut counter)
    }

    /// Latents `[B, C, h, w]` of tokens, in one step each.
    ///
    /// # Errors
    /// As [`render`](Self::render), but no autoencoder is needed.
    pub fn render_latents(&self, tokens: &Tokens) -> Result<Vec<f32>, Error> {
        self.render_latents_counted(tokens, &mut Counter::new(Control::default(), self.runs(tokens.batch())))
    }

    fn render_latents_counted(&self, tokens: &Tokens, counter: &mut Counter<'_>) -> Result<Vec<f32>, Error> {
        let ids = self.ids(tokens)?;
        let config = self.config();
        let net = self.network(Part::Renderer)?;
        let mut latents = vec![0.0; tokens.batch() * self.latent_numel()];
        let chunks = ids.chunks(self.batch * config.num_tokens);
        for (ids, latents) in chunks.zip(latents.chunks_mut(self.batch * self.latent_numel())) {
            let count = ids.len() / config.num_tokens;
            net.run(count, &[("tokens", ids.into())], &mut [("rendered_latent", latents.into())], counter)?;
        }
        Ok(latents)
    }

    /// Decodes tokens by diffusion: choose steps, seed and prefix, then `run`.
    pub fn decode<'a>(&'a self, tokens: &'a Tokens) -> Decode<'a, 'static> {
        Decode::new(self, tokens)
    }

    /// Pictures of latents `[B, C, h, w]`.
    ///
    /// # Errors
    /// If there is no autoencoder, or the latents are not whole ones.
    pub fn pictures(&self, latents: &[f32]) -> Result<Vec<Picture>, Error> {
        let count = whole("latents", latents.len(), self.latent_numel())?;
        self.to_pictures(latents, &mut Counter::new(Control::default(), self.runs(count)))
    }

    fn to_pictures(&self, latents: &[f32], counter: &mut Counter<'_>) -> Result<Vec<Picture>, Error> {
        let net = self.network(Part::ToPixels)?;
        let (latent, pixel) = (self.latent_numel(), self.pixels_numel());
        let mut pixels = vec![0.0; self.batch.min(latents.len() / latent) * pixel];
        let mut pictures = Vec::with_capacity(latents.len() / latent);
        for latents in latents.chunks(self.batch * latent) {
            let count = latents.len() / latent;
            let pixels = &mut pixels[..count * pixel];
            net.run(
                count,
                &[("latent", latents.into())],
                &mut [("pixel_values", (&mut *pixels).into())],
                counter,
            )?;
            let side = self.config().image_size as u32;
            for pixels in pixels.chunks_exact(pixel) {
                pictures.push(tensor::from_nchw(pixels, side, side)?);
            }
        }
        Ok(pictures)
    }

    /// Runs of a network on so many pictures.
    fn runs(&self, pictures: usize) -> usize {
        pictures.div_ceil(self.batch)
    }

    /// Elements of one latent.
    fn latent_numel(&self) -> usize {
        self.config().latent_channels * self.config().latent_size.pow(2)
    }

    /// Elements of one picture.
    fn pixels_numel(&self) -> usize {
        3 * self.config().image_size.pow(2)
    }

    /// Checked ids, as the networks take them.
    fn ids(&self, tokens: &Tokens) -> Result<Vec<i32>, Error> {
        tokens.check(self.config().num_tokens, self.config().codebook_size)?;
        Ok(tokens.ids().iter().map(|&id| id as i32).collect())
    }
}

/// The number of whole items.
fn whole(what: &'static str, len: usize, item: usize) -> Result<usize, Error> {
    if len.is_multiple_of(item) { Ok(len / item) } else { Err(Error::NotWhole { what, len, item }) }
}

/// Watches a job of several networks, each run on micro-batches, as one count of thousandths.
pub(crate) struct Counter<'a> {
    control: Control<'a>,
    /// Runs that are done, and all of them.
    done: u64,
    runs: u64,
}

impl<'a> Counter<'a> {
    /// A job of so many runs.
    fn new(control: Control<'a>, runs: usize) -> Counter<'a> {
        Counter { control, done: 0, runs: runs.max(1) as u64 }
    }

    fn cancel(&self) -> Option<&'a AtomicBool> {
        self.control.cancel
    }

    /// A kernel of the present run is done.
    fn step(&mut self, progress: crate::Progress) {
        let Some(callback) = &mut self.control.progress else { return };
        let whole = (progress.iterations * progress.steps).max(1) as u64;
        let done = if progress.request { 0 } else { progress.iteration * progress.steps + progress.step };
        callback(self.done * PARTS + PARTS * done as u64 / whole, self.runs * PARTS);
    }

    /// The present run is done.
    fn next(&mut self) {
        self.done += 1;
        if let Some(callback) = &mut self.control.progress {
            callback(self.done * PARTS, self.runs * PARTS);
        }
    }
}

/// A run is counted in so many parts.
const PARTS: u64 = 1000;
