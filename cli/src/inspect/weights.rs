//! Every tensor of a model's files: name, dtype, shape.

use crate::args::Common;
use crate::job;
use crate::output::{bytes, grouped};
use crate::table::Table;
use anyhow::Result;
use selftok_loader::Weights;
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;

/// The tensors of one or several files.
pub struct Listing(Vec<Arc<Weights>>);

impl Listing {
    /// Of one file, whatever it holds, or of the parts of a Selftok folder. Only headers are read.
    ///
    /// Errors: a file cannot be opened or is damaged.
    pub fn of(common: &Common) -> Result<Listing> {
        if let [path] = &common.model[..]
            && (path.is_file() || foreign(path))
        {
            return Ok(Listing(vec![Weights::open(path)?.into()]));
        }
        let selftok = job::options(common)?.open()?;
        let files = selftok.files();
        let tokenizer = files.diffusion().ok().map(|c| c.weights.clone());
        let renderer = files.renderer().ok().map(|c| c.weights.clone());
        let vae = files.vae().ok().map(|vae| vae.weights.clone());
        Ok(Listing([tokenizer, renderer, vae].into_iter().flatten().collect()))
    }

    /// For machines.
    pub fn json(&self) -> Value {
        let file = |weights: &Arc<Weights>| {
            let tensors: Vec<Value> = weights
                .iter()
                .map(|t| json!({ "name": t.name, "dtype": t.dtype.to_string(), "shape": t.shape }))
                .collect();
            json!({ "path": weights.path(), "tensors": tensors })
        };
        self.0.iter().map(file).collect()
    }
}

/// Whether a folder holds weights of another kind, such as an autoencoder of diffusers.
fn foreign(folder: &Path) -> bool {
    let Ok(items) = std::fs::read_dir(folder) else { return false };
    let selftok =
        |name: &str| name.starts_with("tokenizer.safetensors") || name.starts_with("renderer.safetensors");
    let (mut ours, mut weights) = (false, false);
    for name in items.flatten().map(|item| item.file_name().to_string_lossy().into_owned()) {
        ours |= selftok(&name) || name.ends_with(".pth");
        weights |= name.ends_with(".safetensors") || name.ends_with(".safetensors.index.json");
    }
    weights && !ours
}

impl std::fmt::Display for Listing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for weights in &self.0 {
            let mut table = Table::new("llrl", ["tensor", "dtype", "elements", "shape"]);
            let (mut elements, mut size) = (0usize, 0usize);
            for tensor in weights.iter() {
                elements = elements.saturating_add(tensor.numel());
                size = size.saturating_add(tensor.bytes.len());
                let shape = format!("{:?}", tensor.shape);
                table.row([tensor.name.to_owned(), tensor.dtype.to_string(), grouped(tensor.numel()), shape]);
            }
            writeln!(
                f,
                "{}: {} tensors, {} elements, {}\n{table}",
                weights.path().display(),
                grouped(weights.len()),
                grouped(elements),
                bytes(size)
            )?;
        }
        Ok(())
    }
}
