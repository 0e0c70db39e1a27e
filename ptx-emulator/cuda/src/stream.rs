//! Streams and events: queues of work that does nothing until somebody synchronises, tied together by the few
//! dependencies that CUDA promises and no others.
//!
//! Every operation of a stream has a number. What it must wait for, beside its predecessor, is a list of (stream,
//! number) fixed when it is submitted: an event's last record for `cuStreamWaitEvent`; the last operation of the
//! legacy stream for a blocking stream, and of all blocking streams for the legacy one.

use crate::abi::Handle;
use crate::driver::{Driver, Held, Outcome};
use crate::history::{Access, Clock, Footprint, Place, join};
use crate::status::Status;
use crate::work::Work;
use ptx_emulator::FindingKind;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Instant;

/// What a stream is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamKind {
    /// The default stream of a context.
    Legacy,
    /// The default stream of a thread.
    PerThread,
    /// Made by `cuStreamCreate`.
    Created,
}

/// A queue of work.
pub struct Stream {
    /// Its context.
    pub context: Handle,
    /// What it is.
    pub kind: StreamKind,
    /// `CU_STREAM_NON_BLOCKING` is bit 0.
    pub flags: u32,
    /// Priority (kept, not acted on).
    pub priority: i32,
    /// Work that is not done.
    pub queue: VecDeque<Operation>,
    /// Number of the last operation submitted.
    pub last: u64,
    /// Number of the last operation done.
    pub done: u64,
    /// Its first operation is being run by some thread.
    pub busy: bool,
    /// Destroyed by the host; goes when its work is done.
    pub destroyed: bool,
    /// The capture it takes part in.
    pub capture: Option<Handle>,
    /// What is known to be done when its next operation starts.
    pub clock: Clock,
}

/// One piece of work in a stream.
pub struct Operation {
    /// Its number in the stream.
    pub seq: u64,
    /// What must be done before, beside its predecessor.
    pub after: Vec<(Handle, u64)>,
    /// Its vector clock.
    pub clock: Clock,
    /// The work.
    pub work: Work,
}

impl Stream {
    /// An empty stream.
    pub fn new(context: Handle, kind: StreamKind, flags: u32, priority: i32) -> Stream {
        Stream {
            context,
            kind,
            flags,
            priority,
            queue: VecDeque::new(),
            last: 0,
            done: 0,
            busy: false,
            destroyed: false,
            capture: None,
            clock: Clock::new(),
        }
    }

    /// Whether it waits for the legacy stream, and that for it.
    pub fn blocking(&self) -> bool {
        self.kind != StreamKind::Legacy && self.flags & 1 == 0
    }
}

/// An event.
pub struct Event {
    /// Its context.
    pub context: Handle,
    /// `CU_EVENT_DISABLE_TIMING` is bit 1.
    pub flags: u32,
    /// The operation that records it: stream, number, vector clock.
    pub record: Option<(Handle, u64, Clock)>,
    /// When that was done.
    pub completed: Option<Instant>,
    /// Its last record was in a capture: the capture and the nodes it stands for.
    pub captured: Option<(Handle, Vec<usize>)>,
}

/// A queue longer than this works itself off.
const LONG: usize = 1024;

impl Driver {
    /// Whether operation `seq` of a stream is done.
    pub fn is_done(&self, stream: Handle, seq: u64) -> bool {
        self.streams.get(&stream).is_none_or(|s| s.done >= seq)
    }

    /// Whether the first operation of a stream can run now.
    fn is_ready(&self, stream: &Stream) -> bool {
        !stream.busy
            && stream.queue.front().is_some_and(|op| op.after.iter().all(|&(s, seq)| self.is_done(s, seq)))
    }

    /// Appends work to a stream, which is not capturing, and judges its accesses to memory.
    pub fn enqueue(
        &mut self,
        stream: Handle,
        work: Work,
        mut after: Vec<(Handle, u64)>,
        known: &Clock,
        accesses: &[Access],
    ) -> Outcome<u64> {
        let s = self.streams.get(&stream).ok_or(Status::INVALID_HANDLE)?;
        let mut clock = s.clock.clone();
        join(&mut clock, known);
        join(&mut clock, &self.host_clock);
        for (&other, o) in self.streams.iter().filter(|(h, o)| **h != stream && o.context == s.context) {
            let ordered = match (s.kind, o.kind) {
                (StreamKind::Legacy, _) => o.blocking(),
                (_, StreamKind::Legacy) => s.blocking(),
                _ => false,
            };
            if ordered && o.last > 0 {
                join(&mut clock, &o.clock);
                if o.done < o.last {
                    after.push((other, o.last));
                }
            }
        }
        let s = self.streams.get_mut(&stream).ok_or(Status::INVALID_HANDLE)?;
        s.last += 1;
        let seq = s.last;
        clock.insert(stream, seq);
        s.clock = clock.clone();
        let what = format!("{} in stream {stream:#x}", work.describe());
        if !accesses.is_empty() {
            let place = Place { stream, seq, clock: clock.clone(), context: s.context, node: None };
            self.judge(Footprint::new(accesses.to_vec()), &place, &what);
        }
        let s = self.streams.get_mut(&stream).ok_or(Status::INVALID_HANDLE)?;
        s.queue.push_back(Operation { seq, after, clock, work });
        Ok(seq)
    }

    /// Enters what an operation touches in the history; a conflict is a finding.
    pub fn judge(&mut self, footprint: Footprint, place: &Place, what: &str) {
        if !self.settings.options.checks.race {
            return;
        }
        if let Some(c) = self.history.enter(footprint, place, what) {
            let done = |writes: bool| if writes { "written by" } else { "read by" };
            let message = format!(
                "{} {what}, and {} {}: nothing orders the two (an event or a synchronisation is missing)",
                done(c.writes),
                done(c.earlier_writes),
                c.earlier,
            );
            self.report.host_finding(FindingKind::Race, "streams", Some(c.address), message);
        }
    }

    /// The host has learned that an operation, and all that its clock knows, is done.
    pub fn host_learns(&mut self, clock: &Clock) {
        join(&mut self.host_clock, clock);
        let mut clocks = vec![&self.host_clock];
        clocks.extend(self.streams.values().flat_map(|s| s.queue.iter().map(|op| &op.clock)));
        self.history.prune(&clocks);
    }

    /// Streams that must move before the given operations can be done.
    fn needed(&self, targets: &[(Handle, u64)]) -> BTreeSet<Handle> {
        let mut needed: BTreeMap<Handle, u64> = BTreeMap::new();
        let mut open: Vec<(Handle, u64)> = targets.to_vec();
        while let Some((stream, seq)) = open.pop() {
            let Some(s) = self.streams.get(&stream).filter(|s| s.done < seq) else { continue };
            let before = needed.get(&stream).copied().unwrap_or(0);
            if seq > before {
                needed.insert(stream, seq);
                let new = s.queue.iter().filter(|op| op.seq > before && op.seq <= seq);
                open.extend(new.flat_map(|op| op.after.iter().copied()));
            }
        }
        needed.into_keys().collect()
    }
}

/// How one synchronising call picks among streams.
#[derive(Clone, Copy, PartialEq)]
enum Mood {
    /// Only what is needed moves; other streams fall behind.
    NeededOnly,
    /// Others first, as far as they get; what is needed comes late.
    OthersFirst,
    /// Anything, a little at a time.
    Mixed,
}

/// Steps after which a mood gives way to [`Mood::Mixed`], so that a kernel that waits for another stream goes on.
const PATIENCE: usize = 256;

impl Held {
    /// Runs work until all of the given operations are done.
    pub fn run_until(&mut self, targets: &[(Handle, u64)]) -> Outcome {
        let mut mood = [Mood::NeededOnly, Mood::OthersFirst, Mood::Mixed][self.random.below(3)];
        let mut steps = 0;
        while !targets.iter().all(|&(s, seq)| self.is_done(s, seq)) {
            if steps > PATIENCE {
                mood = Mood::Mixed;
            }
            steps += 1;
            if !self.advance_some(mood, targets) {
                if self.streams.values().any(|s| s.busy) {
                    self.wait_for_others();
                } else {
                    return Err(Status::UNKNOWN.because("the streams wait for one another and none can move"));
                }
            }
        }
        Ok(())
    }

    /// Lets a few pieces of work happen, as they would while the host polls.
    pub fn run_a_little(&mut self) {
        for _ in 0..1 + self.random.below(3) {
            self.advance_some(Mood::Mixed, &[]);
        }
    }

    /// Moves one stream by one step. False when none can move.
    fn advance_some(&mut self, mood: Mood, targets: &[(Handle, u64)]) -> bool {
        let ready: Vec<Handle> =
            self.streams.iter().filter(|(_, s)| self.is_ready(s)).map(|(handle, _)| *handle).collect();
        let mut choice = ready.clone();
        if mood != Mood::Mixed && ready.len() > 1 {
            let needed = self.needed(targets);
            choice.retain(|s| needed.contains(s) == (mood == Mood::NeededOnly));
            if choice.is_empty() {
                choice = ready.clone();
            }
        }
        if choice.is_empty() {
            return false;
        }
        let stream = choice[self.random.below(choice.len())];
        let budget = match ready.len() {
            1 => u64::MAX,
            _ => [1, 50, 2_000, 100_000][self.random.below(4)],
        };
        self.advance(stream, budget);
        true
    }

    /// Runs the first operation of a stream, or a part of it.
    fn advance(&mut self, stream: Handle, budget: u64) {
        let Some(s) = self.streams.get_mut(&stream) else { return };
        let Some(op) = s.queue.front_mut() else { return };
        let seq = op.seq;
        let place = Place { stream, seq, clock: op.clock.clone(), context: s.context, node: None };
        let mut work = std::mem::replace(&mut op.work, Work::Nothing);
        s.busy = true;
        let done = self.run_work(&mut work, &place, budget);
        let Some(s) = self.streams.get_mut(&stream) else { return };
        s.busy = false;
        if !done {
            if let Some(op) = s.queue.front_mut() {
                op.work = work;
            }
            return;
        }
        s.queue.pop_front();
        s.done = seq;
        if s.destroyed && s.queue.is_empty() {
            self.streams.remove(&stream);
        }
    }

    /// Submits work to a stream: into its capture if it is capturing, else into its queue.
    pub fn submit(&mut self, stream: Handle, work: Work, accesses: &[Access]) -> Outcome<u64> {
        self.free_before(stream, &work, accesses);
        let s = self.streams.get(&stream).ok_or(Status::INVALID_HANDLE)?;
        let context = s.context;
        if let Some(capture) = s.capture {
            self.capture_work(capture, stream, work)?;
            return Ok(0);
        }
        self.check_implicit(stream)?;
        self.check_context(context)?;
        let seq = self.enqueue(stream, work, Vec::new(), &Clock::new(), accesses)?;
        if self.streams[&stream].queue.len() > LONG {
            self.run_until(&[(stream, seq.saturating_sub(LONG as u64 / 2))])?;
        }
        Ok(seq)
    }

    /// Runs a stream to its end; gives the error of its context, if there is one by then.
    pub fn synchronise(&mut self, stream: Handle) -> Outcome {
        let s = self.streams.get(&stream).ok_or(Status::INVALID_HANDLE)?;
        let (context, last, clock) = (s.context, s.last, s.clock.clone());
        self.run_until(&[(stream, last)])?;
        self.host_learns(&clock);
        self.check_context(context)
    }

    /// Runs all streams of a context to their end.
    pub fn synchronise_context(&mut self, context: Handle) -> Outcome {
        let of_context = self.streams.iter().filter(|(_, s)| s.context == context);
        let (targets, clocks): (Vec<_>, Vec<_>) =
            of_context.map(|(&handle, s)| ((handle, s.last), s.clock.clone())).unzip();
        self.run_until(&targets)?;
        for clock in clocks {
            self.host_learns(&clock);
        }
        self.check_context(context)
    }
}
