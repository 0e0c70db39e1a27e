//! Causal transformers as a black box: the logits after every id, for a batch of one length.
//!
//! Their graph takes packed rows and caches; [`CausalModel::logits`] feeds it, so nothing is compiled here.

use super::{Architecture, Entry, Folder, NamedTensors, NetworkError, Runner, Values};
use crate::Error;
use crate::generate::{CausalModel, Padded};

const SIGNATURE: &str =
    "input_ids [B, T], and where texts are padded attention_mask [B, T] or position_ids [B, T] or [1, T]";

struct Causal(CausalModel);

/// Opens a folder of a causal transformer, or a GGUF file.
pub(super) fn open(folder: &Folder<'_>) -> Result<Box<dyn Architecture>, Error> {
    Ok(Box::new(Causal(CausalModel::open(folder.path, folder.device)?)))
}

fn integers<'a>(inputs: &'a NamedTensors, name: &str) -> Result<&'a [i64], Error> {
    Ok(inputs.i64(name).ok_or_else(|| NetworkError::Value {
        name: name.into(),
        what: "holds floating-point numbers".into(),
        expected: "integers, best as I64".into(),
    })?)
}

/// Which ids are seen; none where all are.
fn mask(inputs: &NamedTensors, shape: [usize; 2]) -> Result<Option<Vec<bool>>, Error> {
    let Some(tensor) = inputs.get("attention_mask") else { return Ok(None) };
    if tensor.shape != shape {
        let (name, found, expected) =
            ("attention_mask".into(), tensor.shape.clone(), format!("{shape:?}, as in {SIGNATURE}"));
        return Err(NetworkError::Shape { name, found, expected }.into());
    }
    let mask = tensor.values.mask().ok_or_else(|| NetworkError::Value {
        name: "attention_mask".into(),
        what: "holds other numbers than 0 and 1".into(),
        expected: "1 for an id that is seen, 0 for one that is not".into(),
    })?;
    Ok(mask.contains(&false).then_some(mask))
}

/// The positions of all ids; none where they are counted from 0.
fn positions(inputs: &NamedTensors, [batch, length]: [usize; 2]) -> Result<Option<Vec<i64>>, Error> {
    let Some(tensor) = inputs.get("position_ids") else { return Ok(None) };
    let positions = integers(inputs, "position_ids")?;
    let positions = match tensor.shape[..] {
        [1, columns] if columns == length => positions.repeat(batch),
        [rows, columns] if (rows, columns) == (batch, length) => positions.to_vec(),
        _ => {
            let (name, found) = ("position_ids".into(), tensor.shape.clone());
            let expected = format!("[{batch}, {length}] or [1, {length}], as in {SIGNATURE}");
            return Err(NetworkError::Shape { name, found, expected }.into());
        }
    };
    let counted = positions.iter().enumerate().all(|(i, &position)| position == (i % length) as i64);
    Ok((!counted).then_some(positions))
}

impl Architecture for Causal {
    fn signature(&self) -> &str {
        SIGNATURE
    }

    fn inputs(&self) -> &[&'static str] {
        &["input_ids", "attention_mask", "position_ids"]
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
        let shape @ [batch, length] = inputs.dims("input_ids", SIGNATURE)?;
        let ids = integers(inputs, "input_ids")?;
        let logits = match (mask(inputs, shape)?, positions(inputs, shape)?) {
            (None, None) => self.0.logits(ids, batch)?,
            (mask, positions) => {
                let visible = &mask.unwrap_or_else(|| vec![true; ids.len()]);
                // As the reference library counts where it is given a mask alone.
                let counted = || (0..ids.len()).map(|i| (i % length) as i64).collect();
                let positions = &positions.unwrap_or_else(counted);
                self.0.logits_padded(Padded { ids, batch, visible, positions })?
            }
        };
        let vocabulary = logits.len() / (batch * length);
        NamedTensors::new().with("logits", &[batch, length, vocabulary], Values::F32(logits))
    }
}
