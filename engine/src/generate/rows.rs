//! The network over packed rows, with its buffers: what a caller of the plan would have to write by hand.

use crate::executable::{EntryId, InputId, OutputId, SlotId, SlotTable};
use crate::session::{Input, Output, RunOptions};
use crate::{Error, Executable};
use selftok_graph::models::causal::Limits;
use std::ops::Range;
use std::sync::atomic::AtomicBool;

/// Packed rows of one run, the session that runs them, and the logits that come back. Allocates nothing once made.
pub(super) struct Rows {
    session: crate::Session,
    limits: Limits,
    vocabulary: usize,
    entry: EntryId,
    inputs: [InputId; 4],
    /// `place` and `position_ids`, where the plan has them.
    given: Option<[InputId; 2]>,
    logits_id: OutputId,
    slots: SlotTable,
    slot_ids: [SlotId; 2],
    /// Names and row widths of the caches.
    caches: Vec<(String, usize)>,
    ids: Vec<i32>,
    sequence: Vec<i32>,
    position: Vec<i32>,
    place: Vec<i32>,
    angle: Vec<i32>,
    wanted: Vec<i32>,
    logits: Vec<f32>,
}

/// Where a row stands; see [`selftok_graph::models::causal::Positions`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Standing {
    /// Row of the cache that it goes to.
    pub place: usize,
    /// Last row of the cache that it sees.
    pub position: usize,
    /// Its position in the text.
    pub angle: usize,
}

impl Rows {
    pub fn new(executable: &Executable, limits: Limits, vocabulary: usize) -> Result<Rows, Error> {
        let input = |name| executable.input(name);
        let states = executable.plan().states.iter();
        let caches = states.map(|state| (state.name.clone(), state.shape[2])).collect();
        Ok(Rows {
            session: executable.session(),
            limits,
            vocabulary,
            entry: executable.entry("forward")?,
            inputs: [input("input_ids")?, input("sequence")?, input("position")?, input("logit_rows")?],
            given: match (input("place"), input("position_ids")) {
                (Ok(place), Ok(angle)) => Some([place, angle]),
                _ => None,
            },
            logits_id: executable.output("logits")?,
            slots: executable.slots(1),
            slot_ids: [executable.slot("rows")?, executable.slot("logits")?],
            caches,
            ids: Vec::with_capacity(limits.rows),
            sequence: Vec::with_capacity(limits.rows),
            position: Vec::with_capacity(limits.rows),
            place: Vec::with_capacity(limits.rows),
            angle: Vec::with_capacity(limits.rows),
            wanted: Vec::with_capacity(limits.logits),
            logits: vec![0.0; limits.logits * vocabulary],
        })
    }

    /// Rows that may still be added before [`Rows::run`].
    pub fn room(&self) -> usize {
        self.limits.rows - self.ids.len()
    }

    /// Rows that are waiting.
    pub fn waiting(&self) -> usize {
        self.ids.len()
    }

    /// Adds a row. Where its logits are wanted, gives their number in the next run.
    pub fn push(&mut self, id: u32, sequence: usize, position: usize, wanted: bool) -> Option<usize> {
        self.push_at(id, sequence, Standing { place: position, position, angle: position }, wanted)
    }

    /// The same for a row that does not stand where it would by itself. Where its plan was not made for that, only
    /// `position` counts.
    pub fn push_at(&mut self, id: u32, sequence: usize, at: Standing, wanted: bool) -> Option<usize> {
        debug_assert!(self.room() > 0, "more rows than the network was compiled for");
        if wanted {
            self.wanted.push(self.ids.len() as i32);
        }
        self.ids.push(id as i32);
        self.sequence.push(sequence as i32);
        self.position.push(at.position as i32);
        self.place.push(at.place as i32);
        self.angle.push(at.angle as i32);
        wanted.then(|| self.wanted.len() - 1)
    }

    /// Whether the logits of one more row may be asked for.
    pub fn wants_room(&self) -> bool {
        self.wanted.len() < self.limits.logits
    }

    /// Runs the rows that were added, and forgets them. Gives the logits asked for, row by row.
    pub fn run(&mut self, cancel: Option<&AtomicBool>) -> Result<&[f32], Error> {
        let (rows, wanted) = (self.ids.len(), self.wanted.len());
        self.slots.set(self.slot_ids[0], rows as u32).set(self.slot_ids[1], wanted as u32);
        let [ids, sequence, position, logit_rows] = self.inputs;
        let [place, angle] = self.given.unwrap_or([position; 2]);
        let inputs = [
            (ids, Input::I32(&self.ids)),
            (sequence, Input::I32(&self.sequence)),
            (position, Input::I32(&self.position)),
            (logit_rows, Input::I32(&self.wanted)),
            (place, Input::I32(&self.place)),
            (angle, Input::I32(&self.angle)),
        ];
        let inputs = &inputs[..if self.given.is_some() { 6 } else { 4 }];
        let logits = &mut self.logits[..wanted * self.vocabulary];
        let mut outputs = [(self.logits_id, Output::F32(logits))];
        let options = RunOptions { cancel, progress: None };
        let result = self.session.run_entry(self.entry, &self.slots, inputs, &mut outputs, options);
        let lists = [&mut self.ids, &mut self.sequence, &mut self.position, &mut self.place, &mut self.angle];
        for list in lists.into_iter().chain([&mut self.wanted]) {
            list.clear();
        }
        result?;
        Ok(&self.logits[..wanted * self.vocabulary])
    }

    /// Copies rows of one sequence's caches to another's: what a shared prefix is worth.
    pub fn copy_cache(&mut self, from: usize, to: usize, rows: Range<usize>) -> Result<(), Error> {
        for (name, width) in &self.caches {
            let state = self.session.state_mut(name)?;
            let at = |sequence: usize, row: usize| (sequence * self.limits.context + row) * width;
            state.copy_within(at(from, rows.start)..at(from, rows.end), at(to, rows.start));
        }
        Ok(())
    }
}
