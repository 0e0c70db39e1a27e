//! Causal transformers as a black box: the logits after every id, for a batch of one length.
//!
//! Their graph takes packed rows and caches; [`CausalModel::logits`] feeds it, so nothing is compiled here.

use super::{Architecture, Entry, Folder, NamedTensors, NetworkError, Runner, Values};
use crate::Error;
use crate::generate::CausalModel;

const SIGNATURE: &str = "input_ids [B, T]";

struct Causal(CausalModel);

/// Opens a folder of a causal transformer, or a GGUF file.
pub(super) fn open(folder: &Folder<'_>) -> Result<Box<dyn Architecture>, Error> {
    Ok(Box::new(Causal(CausalModel::open(folder.path, folder.device)?)))
}

impl Architecture for Causal {
    fn signature(&self) -> &str {
        SIGNATURE
    }

    fn inputs(&self) -> &[&'static str] {
        &["input_ids"]
    }

    fn outputs(&self) -> &[&'static str] {
        &["logits"]
    }

    /// Never asked: a run is the model's own.
    fn entry(&self, inputs: &NamedTensors) -> Result<Entry, Error> {
        let (name, given) = ("input_ids".into(), inputs.describe());
        Err(NetworkError::Missing { name, given, expected: SIGNATURE.into() }.into())
    }

    fn slots(&self, _: &NamedTensors) -> Result<Vec<(&'static str, u32)>, Error> {
        Ok(vec![])
    }

    fn run(&self, inputs: &NamedTensors, _: &Runner<'_>) -> Result<NamedTensors, Error> {
        let [batch, length] = inputs.dims("input_ids", SIGNATURE)?;
        let ids = inputs.i64("input_ids").ok_or_else(|| NetworkError::Value {
            name: "input_ids".into(),
            what: "holds floating-point numbers".into(),
            expected: "integers, best as I64".into(),
        })?;
        let logits = self.0.logits(ids, batch)?;
        let vocabulary = logits.len() / (batch * length);
        NamedTensors::new().with("logits", &[batch, length, vocabulary], Values::F32(logits))
    }
}
