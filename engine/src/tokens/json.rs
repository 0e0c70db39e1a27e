//! Tokens as JSON: `{"order": "index", "tokens": [[...], ...]}`.
//!
//! For people and scripts, so reading is generous: the order may be missing, the list may stand alone, and a flat list
//! is one picture.

use serde::{Deserialize, Serialize};

use super::{Order, Tokens, id};

#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "expected {\"order\": \"index\" or \"ar\", \"tokens\": [[...], ...]} or the list alone"
)]
enum File {
    Named(Named),
    Bare(Rows),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Named {
    order: Option<String>,
    tokens: Rows,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Rows {
    Batch(Vec<Vec<i64>>),
    One(Vec<i64>),
}

#[derive(Serialize)]
struct Out<'a> {
    order: &'static str,
    tokens: Vec<&'a [u32]>,
}

/// One line, the order before the tokens.
pub(super) fn encode(tokens: &Tokens, order: Order) -> Vec<u8> {
    let out = Out { order: order.name(), tokens: tokens.pictures().collect() };
    let mut bytes = serde_json::to_vec(&out).expect("strings and integers serialise");
    bytes.push(b'\n');
    bytes
}

/// The tokens as they stand, and the order on record.
pub(super) fn decode(bytes: &[u8]) -> Result<(Tokens, Option<Order>), String> {
    let file: File = serde_json::from_slice(bytes).map_err(|e| format!("not a token file: {e}"))?;
    let (order, rows) = match file {
        File::Named(Named { order, tokens }) => (order, tokens),
        File::Bare(rows) => (None, rows),
    };
    let order = order.map(|name| name.parse().map_err(|e: super::TokensError| e.to_string())).transpose()?;
    let rows = match rows {
        Rows::Batch(rows) => rows,
        Rows::One(row) => vec![row],
    };
    let (batch, len) = (rows.len(), rows.first().map_or(0, Vec::len));
    if let Some((picture, row)) = rows.iter().enumerate().find(|(_, row)| row.len() != len) {
        return Err(format!(
            "picture {picture} has {} tokens and picture 0 has {len}; give all the same",
            row.len()
        ));
    }
    let values =
        rows.iter().enumerate().flat_map(|(p, row)| row.iter().enumerate().map(move |(i, &v)| id(p, i, v)));
    let ids = values.collect::<Result<_, _>>()?;
    Ok((Tokens::new(ids, batch, len).map_err(|e| e.to_string())?, order))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_may_stand_alone() {
        for text in ["[[1, 2], [3, 4]]", r#"{"tokens": [[1, 2], [3, 4]]}"#] {
            let (tokens, order) = decode(text.as_bytes()).unwrap();
            assert_eq!((tokens.batch, tokens.ids, order), (2, vec![1, 2, 3, 4], None));
        }
        let (tokens, order) = decode(br#"{"order": "ar", "tokens": [5, 6]}"#).unwrap();
        assert_eq!((tokens.batch, tokens.len, order), (1, 2, Some(Order::Ar)));
    }

    #[test]
    fn what_cannot_be_tokens_is_explained() {
        for (text, expected) in [
            ("[[1, 2], [3]]", "picture 1 has 1 tokens and picture 0 has 2"),
            ("[[1, -2]]", "picture 0, position 1: -2 is no token id"),
            ("[]", "do not make"),
            ("[[]]", "do not make"),
            ("[1.5]", "expected {"),
            (r#"{"order": "up", "tokens": [1]}"#, "choose index"),
            (r#"{"tokens": [1], "extra": 2}"#, "expected {"),
            ("[1, 2", "EOF"),
            (&"[".repeat(100_000), "recursion limit"),
        ] {
            let error = decode(text.as_bytes()).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }
}
