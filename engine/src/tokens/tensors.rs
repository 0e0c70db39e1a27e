//! Tokens as a safetensors file: one integer tensor `tokens` `[B, K]`, the order in the metadata.

use std::collections::HashMap;

use safetensors::tensor::TensorView;
use safetensors::{Dtype as FileDtype, SafeTensors};

use super::{Dtype, Order, Tokens};

const NAME: &str = "tokens";

/// An int64 tensor, as the array file holds.
pub(super) fn encode(tokens: &Tokens, order: Order) -> Vec<u8> {
    let data: Vec<u8> = tokens.ids.iter().flat_map(|&id| i64::from(id).to_le_bytes()).collect();
    let view = TensorView::new(FileDtype::I64, vec![tokens.batch, tokens.len], &data)
        .expect("eight bytes for each of batch * len ids");
    let metadata = HashMap::from([("order".to_string(), order.name().to_string())]);
    safetensors::serialize([(NAME, view)], Some(metadata)).expect("one valid tensor serialises")
}

/// The tensor `tokens`, or the only one there is, and the order on record.
pub(super) fn decode(bytes: &[u8]) -> Result<(Tokens, Option<Order>), String> {
    let broken = |e| format!("not a valid safetensors file: {e}");
    let (_, metadata) = SafeTensors::read_metadata(bytes).map_err(broken)?;
    let file = SafeTensors::deserialize(bytes).map_err(broken)?;
    let order = metadata.metadata().as_ref().and_then(|m| m.get("order"));
    let order = order.map(|name| name.parse().map_err(|e: super::TokensError| e.to_string())).transpose()?;
    let tensor = match file.tensor(NAME) {
        Ok(tensor) => tensor,
        Err(_) => match file.tensors().pop() {
            Some((_, only)) if file.len() == 1 => only,
            _ => return Err(format!("holds {} tensors and none is called {NAME:?}", file.len())),
        },
    };
    let dtype = match tensor.dtype() {
        FileDtype::I64 => Dtype::I64,
        FileDtype::U64 => Dtype::U64,
        FileDtype::I32 => Dtype::I32,
        FileDtype::U32 => Dtype::U32,
        FileDtype::I16 => Dtype::I16,
        FileDtype::U16 => Dtype::U16,
        FileDtype::U8 => Dtype::U8,
        other => return Err(format!("the tokens are of type {other:?}; save them as integers, best as I64")),
    };
    Ok((dtype.tokens(tensor.data(), tensor.shape(), false)?, order))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(tensors: &[(&str, FileDtype, Vec<usize>, &[u8])]) -> Vec<u8> {
        let views = tensors
            .iter()
            .map(|(name, dtype, shape, data)| (*name, TensorView::new(*dtype, shape.clone(), data).unwrap()));
        safetensors::serialize(views, None).unwrap()
    }

    #[test]
    fn the_only_tensor_may_have_any_name() {
        let (tokens, order) =
            decode(&file(&[("codes", FileDtype::U16, vec![2], &[1, 0, 255, 127])])).unwrap();
        assert_eq!((tokens.ids, order), (vec![1, 32767], None));
    }

    #[test]
    fn what_cannot_be_tokens_is_explained() {
        let floats = decode(&file(&[("tokens", FileDtype::F32, vec![1], &[0; 4])])).unwrap_err();
        assert!(floats.contains("save them as integers"), "{floats}");
        let two = [("a", FileDtype::U8, vec![1], &[0u8][..]), ("b", FileDtype::U8, vec![1], &[0u8][..])];
        assert!(decode(&file(&two)).unwrap_err().contains("holds 2 tensors"));
        assert!(decode(b"").unwrap_err().contains("not a valid safetensors file"));
    }
}
