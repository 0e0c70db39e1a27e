//! What every command that computes has in common: an open model, a device, and a flag that Ctrl-C sets.

use crate::args::{Common, DeviceChoice, Dtype, Mode};
use crate::failure::{Interrupted, Usage};
use crate::progress::Progress;
use anyhow::{Context, Result};
use selftok::pipeline::Options;
use selftok::{ComputeType, Control, CpuOptions, Device, Selftok};
use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Pictures that are read, computed and let go at a time, so that memory does not grow with their number.
const CHUNK: usize = 64;

/// An open model, ready to work.
pub struct Job {
    /// The model.
    pub selftok: Selftok,
    /// How long opening it took.
    pub opened: Duration,
    cancel: Arc<AtomicBool>,
    started: Instant,
    /// What is to be said of the device, once it computes.
    announce: Cell<Option<String>>,
    quiet: bool,
    chunk: usize,
}

impl Job {
    /// Opens the model that the arguments name, and listens for Ctrl-C from now on.
    ///
    /// Errors: the model or the device cannot be had.
    pub fn open(common: &Common) -> Result<Job> {
        let started = Instant::now();
        let cancel = watch_signals()?;
        let decode_in = match common.dtype {
            Dtype::F32 => ComputeType::F32,
            Dtype::Bf16 => ComputeType::Bf16,
        };
        let batch = usize::from(common.batch);
        let selftok = options(common)?.device(device(common)?).batch(batch).decode_in(decode_in).open()?;
        let announce = (common.device == DeviceChoice::Auto && !common.quiet)
            .then(|| format!("running on {}: this build has no kernels for GPUs", selftok.device()));
        let chunk = CHUNK.div_ceil(batch) * batch;
        Ok(Job {
            selftok,
            opened: started.elapsed(),
            cancel,
            started,
            announce: Cell::new(announce),
            quiet: common.quiet,
            chunk,
        })
    }

    /// Errors: the model cannot encode pictures, and what it lacks.
    pub fn needs_encoding(&self) -> Result<()> {
        self.selftok.files().encoder()?;
        self.selftok.files().vae()?;
        Ok(())
    }

    /// Errors: the model cannot decode to pictures in this way, and what it lacks.
    pub fn needs_decoding(&self, mode: Mode) -> Result<()> {
        let files = self.selftok.files();
        match mode {
            Mode::Render => {
                files.renderer()?;
            }
            Mode::Diffuse => {
                files.diffusion()?;
                files.tokens_per_stage()?;
            }
        }
        files.vae()?;
        Ok(())
    }

    /// Time since the job was opened.
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Side of the model's pictures, in pixels.
    pub fn image_size(&self) -> u32 {
        self.selftok.config().image_size as u32
    }

    /// How many pictures to hold at a time: a multiple of the batch.
    pub fn chunk(&self) -> usize {
        self.chunk
    }

    /// A progress bar over so many pictures.
    pub fn progress(&self, label: &str, items: usize) -> Progress {
        Progress::new(label, items, self.quiet, self.announce.take())
    }

    /// Watches the next part of a job: its progress goes to `callback` (see [`Progress::part`]), Ctrl-C stops it.
    ///
    /// Errors: [`Interrupted`].
    pub fn control<'c>(&'c self, callback: &'c mut dyn FnMut(u64, u64)) -> Result<Control<'c>> {
        self.go_on()?;
        Ok(Control { cancel: Some(&self.cancel), progress: Some(callback) })
    }

    /// Errors: [`Interrupted`] once Ctrl-C was pressed.
    pub fn go_on(&self) -> Result<()> {
        if self.cancel.load(Ordering::Relaxed) { Err(Interrupted.into()) } else { Ok(()) }
    }
}

/// The files that the arguments name.
///
/// Errors: more than two models.
pub fn options(common: &Common) -> Result<Options> {
    let mut options = Selftok::options();
    match &common.model[..] {
        [] => {}
        [model] => options = options.model(model),
        [model, other] => options = options.model(model).other(other),
        _ => {
            let what =
                "--model is given more than twice; name one folder, or a tokenizer and a renderer file";
            return Err(Usage(what.into()).into());
        }
    }
    if let Some(config) = &common.config {
        options = options.config(config);
    }
    if let Some(vae) = &common.vae {
        options = options.vae(vae);
    }
    Ok(options)
}

/// The device that the arguments name.
///
/// Errors: its threads cannot be started.
pub fn device(common: &Common) -> Result<Device> {
    match common.device {
        // The processor is the best of the devices that this build knows.
        DeviceChoice::Auto | DeviceChoice::Cpu => {
            let threads = common.threads.map_or(0, usize::from);
            Ok(Device::cpu(CpuOptions { threads, ..CpuOptions::default() })?)
        }
    }
}

/// A flag that the first Ctrl-C (or SIGTERM) sets; the second ends the process at once, should a job not come to its next
/// step.
pub fn watch_signals() -> Result<Arc<AtomicBool>> {
    use signal_hook::consts::{SIGINT, SIGTERM};
    let flag = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        let exit = i32::from(crate::failure::INTERRUPTED);
        signal_hook::flag::register_conditional_shutdown(signal, exit, flag.clone())
            .and_then(|_| signal_hook::flag::register(signal, flag.clone()))
            .context("cannot listen for Ctrl-C")?;
    }
    Ok(flag)
}
