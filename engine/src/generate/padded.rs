//! Logits of texts with ids that others do not see, or with positions of their own: what `attention_mask` and
//! `position_ids` are for in the reference library.
//!
//! A cache has no holes: ids that are seen stand first in it, in order, and the hidden ones behind them. Each id then sees a
//! first part of it, namely the ids at or before it that are not hidden.

use super::model::BLACK_BOX_ROWS;
use super::rows::Standing;
use super::{CausalModel, GenerateError};
use crate::Error;
use selftok_graph::models::causal::{Limits, Positions};

/// A batch of texts of one length.
#[derive(Clone, Copy, Debug)]
pub struct Padded<'a> {
    /// `[B, T]`
    pub ids: &'a [i64],
    /// Texts.
    pub batch: usize,
    /// `[B, T]`: whether an id is seen by those at and behind it.
    pub visible: &'a [bool],
    /// `[B, T]`: positions in the text, each below the model's own number of them.
    pub positions: &'a [i64],
}

impl CausalModel {
    /// `[B, T]` → `logits [B, T, V]`; those of an id that sees none, itself included, are 0.
    ///
    /// # Errors
    /// If an id or a position is out of range, the lengths do not fit, or a window of the model would count hidden ids.
    pub fn logits_padded(&self, texts: Padded<'_>) -> Result<Vec<f32>, Error> {
        let (vocabulary, most) = (self.config().vocab_size(), self.config().max_positions());
        let length = self.check_ids(texts.ids, texts.batch)?;
        for (what, len) in [("attention_mask", texts.visible.len()), ("position_ids", texts.positions.len())]
        {
            if len != texts.ids.len() {
                return Err(Error::NotWhole { what, len, item: texts.ids.len() });
            }
        }
        let inside = |&position: &i64| usize::try_from(position).is_ok_and(|position| position < most);
        if let Some(at) = texts.positions.iter().position(|position| !inside(position)) {
            return Err(
                GenerateError::Position { position: texts.positions[at], at: at % length, most }.into()
            );
        }
        if texts.visible.contains(&false) && self.config().has_windows() {
            return Err(GenerateError::WindowedMask.into());
        }
        let standings: Vec<Option<Standing>> = (0..texts.batch)
            .flat_map(|text| {
                let part = text * length..(text + 1) * length;
                standings(&texts.visible[part.clone()], &texts.positions[part])
            })
            .collect();
        let last = texts.positions.iter().max().map_or(0, |&position| position as usize);
        let rows = BLACK_BOX_ROWS;
        let limits = Limits { rows, logits: rows, sequences: texts.batch, context: length.max(last + 1) };
        let mut logits = GenerateError::room(texts.ids.len(), vocabulary)?;
        logits.resize(texts.ids.len() * vocabulary, 0.0);
        let mut packed = self.rows(limits, Positions::Given)?;
        let live: Vec<(usize, Standing)> =
            standings.into_iter().enumerate().filter_map(|(row, at)| Some((row, at?))).collect();
        for part in live.chunks(rows) {
            for &(row, at) in part {
                packed.push_at(texts.ids[row] as u32, row / length, at, true);
            }
            let found = packed.run(None)?;
            for ((row, _), found) in part.iter().zip(found.chunks_exact(vocabulary)) {
                logits[row * vocabulary..(row + 1) * vocabulary].copy_from_slice(found);
            }
        }
        Ok(logits)
    }
}

/// Where each id of a text stands; `None` where it sees none.
fn standings(visible: &[bool], positions: &[i64]) -> Vec<Option<Standing>> {
    let (mut seen, mut behind) = (0, visible.iter().filter(|visible| **visible).count());
    visible
        .iter()
        .zip(positions)
        .map(|(&visible, &angle)| {
            let next = if visible { &mut seen } else { &mut behind };
            let place = *next;
            *next += 1;
            Some(Standing { place, position: seen.checked_sub(1)?, angle: angle as usize })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hidden_ids_stand_behind_and_see_what_is_before_them() {
        let at = |place, position, angle| Some(Standing { place, position, angle });
        let padded_left = standings(&[false, true, true], &[0, 1, 2]);
        assert_eq!(padded_left, [None, at(0, 0, 1), at(1, 1, 2)]);
        let padded_right = standings(&[true, false, false], &[0, 1, 2]);
        assert_eq!(padded_right, [at(0, 0, 0), at(1, 0, 1), at(2, 0, 2)]);
        assert_eq!(standings(&[true, false, true], &[5, 6, 7]), [at(0, 0, 5), at(2, 0, 6), at(1, 1, 7)]);
    }
}
