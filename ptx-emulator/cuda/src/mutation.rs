//! One mistake put into the host's calls on purpose, to see whether something notices.
//!
//! Every call that orders, moves or launches asks here whether to be wrong, by [`Driver::mutates`]. A mistake has an id, its kind
//! and its number among those of that kind in the order in which the program makes its calls. With `PTX_EMULATOR_MUTATE=list` nothing
//! is broken and the report lists all ids; with an id, that mistake is made. A program that makes the same calls at each run can so be
//! run once with each.

use crate::abi::Handle;
use crate::driver::{Driver, Held};
use crate::graph::Node;
use crate::history::Access;
use crate::stream::StreamKind;
use crate::work::{KernelCall, Work};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// A mistake that can be made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Mutant {
    /// `kind:number`.
    pub id: String,
    /// What is done wrong, in words.
    pub change: String,
}

/// What the environment asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// No mistakes.
    #[default]
    Off,
    /// No mistakes, but a list of those that could be made.
    List,
    /// The mistake of this id.
    Make(String),
}

impl std::str::FromStr for Mode {
    type Err = String;

    fn from_str(text: &str) -> Result<Mode, String> {
        let number = |n: &str| n.parse::<u32>().is_ok();
        match text.split_once(':') {
            _ if text.is_empty() => Ok(Mode::Off),
            None if text == "list" => Ok(Mode::List),
            Some((kind, n)) if KINDS.contains(&kind) && number(n) => Ok(Mode::Make(text.to_owned())),
            _ => Err(format!("'{text}': list, or KIND:NUMBER with a kind of {}", KINDS.join(", "))),
        }
    }
}

/// The kinds of mistakes.
const KINDS: [&str; 8] = ["argument", "copy", "dependency", "launch", "lifetime", "order", "size", "stream"];

/// The state of the mutation of one process.
#[derive(Debug, Default)]
pub struct Mutation {
    /// What is asked for.
    pub mode: Mode,
    /// Mistakes met so far, by kind.
    met: BTreeMap<&'static str, u32>,
    /// Calls so far, by entry point.
    calls: BTreeMap<&'static str, u32>,
    /// Memory that was freed early: the program's own free of it does nothing.
    freed: BTreeSet<u64>,
}

impl Mutation {
    /// With what the environment asks for.
    pub fn new(mode: Mode) -> Mutation {
        Mutation { mode, ..Mutation::default() }
    }

    /// Whether anything is asked for at all.
    fn on(&self) -> bool {
        self.mode != Mode::Off
    }
}

impl Driver {
    /// Whether to make the next mistake of this kind.
    pub fn mutates(&mut self, kind: &'static str, change: impl FnOnce() -> String) -> bool {
        debug_assert!(KINDS.contains(&kind));
        if !self.mutation.on() {
            return false;
        }
        let number = self.mutation.met.entry(kind).or_default();
        let id = format!("{kind}:{number}");
        *number += 1;
        match &self.mutation.mode {
            Mode::Make(wanted) if *wanted == id => {
                self.report.mutants.push(Mutant { id, change: change() });
                true
            }
            Mode::List => {
                self.report.mutants.push(Mutant { id, change: change() });
                false
            }
            _ => false,
        }
    }

    /// A stream in words.
    fn stream_name(&self, stream: Handle) -> String {
        let created = self.streams.iter().filter(|(_, s)| s.kind == StreamKind::Created);
        match created.clone().position(|(h, _)| *h == stream) {
            Some(at) => format!("stream {at}"),
            None => "a default stream".to_owned(),
        }
    }

    /// The other streams that a piece of work could be put into by mistake: the context's default one, and the next created one.
    fn other_streams(&self, stream: Handle) -> Vec<Handle> {
        let Some(own) = self.streams.get(&stream) else { return Vec::new() };
        let created = |(h, s): &(&Handle, &crate::stream::Stream)| {
            s.context == own.context && s.kind == StreamKind::Created && !s.destroyed && **h != stream
        };
        let after = self.streams.range(stream + 1..).find(created);
        let next = after.or_else(|| self.streams.iter().find(created)).map(|(h, _)| *h);
        let legacy = self.contexts.get(&own.context).map(|c| c.legacy);
        legacy.into_iter().filter(|l| *l != stream).chain(next).collect()
    }
}

impl Held {
    /// The call in words, counted: `cuEventRecord 3`.
    fn this_call(&mut self) -> String {
        let entry = self.entry;
        let number = self.mutation.calls.entry(entry).or_default();
        let text = format!("{entry} {number}");
        *number += 1;
        text
    }

    /// Whether to leave this call out. Asked once a call, first of all questions.
    pub fn leaves_out(&mut self, kind: &'static str) -> bool {
        if !self.mutation.on() {
            return false;
        }
        let call = self.this_call();
        self.mutates(kind, || format!("{call} is left out"))
    }

    /// The number of bytes to allocate, copy or fill in place of `bytes`.
    pub fn halved(&mut self, kind: &'static str, bytes: usize) -> usize {
        let entry = self.entry;
        if bytes >= 2 && self.mutates(kind, || format!("{entry} of {} bytes for {bytes}", bytes / 2)) {
            bytes / 2
        } else {
            bytes
        }
    }

    /// The device address to use in place of `address`.
    pub fn moved(&mut self, what: &str, address: u64) -> u64 {
        let entry = self.entry;
        if self.mutates("argument", || format!("{what} of {entry} is 4 bytes on")) {
            address.wrapping_add(4)
        } else {
            address
        }
    }

    /// The stream to put a piece of work into in place of `stream`.
    pub fn swapped(&mut self, stream: Handle) -> Handle {
        if !self.mutation.on() {
            return stream;
        }
        let entry = self.entry;
        let mut chosen = stream;
        for other in self.other_streams(stream) {
            let (from, to) = (self.stream_name(stream), self.stream_name(other));
            if self.mutates("stream", || format!("{entry} in {to}, not {from}")) {
                chosen = other;
            }
        }
        chosen
    }

    /// A launch with one of its pointers a little further, or without its last block.
    pub fn mutate_launch(&mut self, call: &mut KernelCall) {
        if !self.mutation.on() {
            return;
        }
        for (name, offset, address) in pointers(self, call) {
            for by in [4, 16] {
                let kernel = call.name.clone();
                if self.mutates("argument", || format!("{kernel}: {name} is {by} bytes on")) {
                    let moved = (address + by).to_le_bytes();
                    call.args[offset..offset + 8].copy_from_slice(&moved);
                }
            }
        }
        if let Some(axis) = (0..3).find(|a| call.config.grid[*a] > 1) {
            let kernel = call.name.clone();
            if self.mutates("launch", || format!("{kernel}: the last blocks along axis {axis} are missing")) {
                call.config.grid[axis] -= 1;
            }
        }
    }

    /// Frees memory just before its use by the work that is about to be submitted to `stream`.
    pub fn free_before(&mut self, stream: Handle, work: &Work, accesses: &[Access]) {
        if !self.mutation.on() || self.streams.get(&stream).is_none_or(|s| s.capture.is_some()) {
            return;
        }
        let mut used: BTreeSet<u64> =
            accesses.iter().filter_map(|a| self.device.memory().range_of(a.start)).map(|r| r.0).collect();
        match work {
            Work::Kernel(call, _) => used.extend(allocations(self, call)),
            Work::Graph(run) => {
                for call in run.kernels() {
                    used.extend(allocations(self, call));
                }
            }
            Work::Copy(_) | Work::Fill(_) => {}
            _ => return,
        }
        for address in used {
            let Some(bytes) = self.owners.get(&address).filter(|o| !o.freeing).map(|o| o.bytes) else {
                continue;
            };
            let what = work.describe();
            if self
                .mutates("lifetime", || format!("{bytes} bytes are freed just before {what} that uses them"))
            {
                self.mutation.freed.insert(address);
                if let Some(owner) = self.owners.get_mut(&address) {
                    owner.freeing = true;
                }
                let accesses = [Access::write(address, bytes)];
                // A context with an error frees nothing and runs nothing: the mistake is then not made, and nothing finds it.
                let _ = self.submit(stream, Work::Free(address), &accesses);
            }
        }
    }

    /// Whether this memory was freed early, so that the program's own free is not to be.
    pub fn freed_early(&mut self, address: u64) -> bool {
        self.mutation.freed.remove(&address)
    }

    /// A graph without one of its dependencies.
    pub fn mutate_graph(&mut self, nodes: &mut [Node]) {
        if !self.mutation.on() {
            return;
        }
        for (k, node) in nodes.iter_mut().enumerate() {
            node.after.retain(|j| {
                !self.mutates("dependency", || format!("node {k} of a graph does not wait for node {j}"))
            });
        }
    }
}

/// The arguments of a launch that are addresses in live allocations: name, offset, address.
fn pointers(d: &Driver, call: &KernelCall) -> Vec<(String, usize, u64)> {
    let Some(kernel) = call.loaded.module().kernel(&call.name) else { return Vec::new() };
    let words = kernel.params.iter().filter(|p| p.bytes == 8);
    let all = words.filter_map(|p| {
        let bytes = call.args.get(p.offset as usize..p.offset as usize + 8)?;
        let address = u64::from_le_bytes(bytes.try_into().ok()?);
        d.device.memory().range_of(address)?;
        Some((p.name.to_string(), p.offset as usize, address))
    });
    all.collect()
}

/// The allocations that a launch's arguments lead to.
fn allocations(d: &Driver, call: &KernelCall) -> Vec<u64> {
    pointers(d, call).iter().filter_map(|(_, _, a)| d.device.memory().range_of(*a)).map(|r| r.0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_environment_asks_for_is_read_strictly() {
        assert_eq!("".parse(), Ok(Mode::Off));
        assert_eq!("list".parse(), Ok(Mode::List));
        assert_eq!("order:3".parse(), Ok(Mode::Make("order:3".into())));
        for wrong in ["order", "order:", "order:x", "disorder:3", "3"] {
            assert!(wrong.parse::<Mode>().unwrap_err().contains("KIND:NUMBER"), "{wrong}");
        }
    }
}
