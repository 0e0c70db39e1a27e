//! Stream capture: work submitted to a capturing stream becomes nodes of a graph, each after what its stream did
//! last. Events carry a capture from stream to stream, as they carry order outside of one.

use crate::abi::Handle;
use crate::driver::{Driver, Outcome};
use crate::graph::{Graph, NodeWork};
use crate::status::Status;
use crate::work::{Source, Work};
use std::collections::BTreeMap;

/// A capture under way.
pub struct Capture {
    /// The graph that it builds.
    pub graph: Handle,
    /// The stream that began it.
    pub origin: Handle,
    /// `CUstreamCaptureMode`: 0 global, 1 thread-local, 2 relaxed.
    pub mode: u32,
    /// The thread that began it.
    pub thread: u64,
    /// For each stream that takes part, the nodes that its next node comes after.
    pub tails: BTreeMap<Handle, Vec<usize>>,
    /// Something went wrong; the graph will not come to be.
    pub invalid: bool,
}

impl Driver {
    /// `cuStreamBeginCapture`.
    pub fn begin_capture(&mut self, stream: Handle, mode: u32, thread: u64) -> Outcome {
        let s = self.streams.get(&stream).ok_or(Status::INVALID_HANDLE)?;
        if s.kind == crate::stream::StreamKind::Legacy {
            return Err(
                Status::STREAM_CAPTURE_UNSUPPORTED.because("the legacy default stream cannot be captured")
            );
        }
        if s.capture.is_some() {
            return Err(Status::INVALID_VALUE.because("the stream is being captured already"));
        }
        if mode > 2 {
            return Err(Status::INVALID_VALUE.because(format!("{mode} is no capture mode")));
        }
        let context = s.context;
        let (capture, graph) = (self.handle(), self.handle());
        self.graphs.insert(graph, Graph { context, nodes: Vec::new(), memory: Vec::new() });
        let tails = BTreeMap::from([(stream, Vec::new())]);
        self.captures.insert(capture, Capture { graph, origin: stream, mode, thread, tails, invalid: false });
        if let Some(s) = self.streams.get_mut(&stream) {
            s.capture = Some(capture);
        }
        Ok(())
    }

    /// `cuStreamEndCapture`: the graph.
    pub fn end_capture(&mut self, stream: Handle, thread: u64) -> Outcome<Handle> {
        let s = self.streams.get(&stream).ok_or(Status::INVALID_HANDLE)?;
        let handle =
            s.capture.ok_or_else(|| Status::INVALID_VALUE.because("the stream is not being captured"))?;
        let capture = self.captures.get(&handle).ok_or(Status::INVALID_VALUE)?;
        if capture.origin != stream {
            return Err(
                Status::STREAM_CAPTURE_UNMATCHED.because("a capture ends in the stream that began it")
            );
        }
        if capture.mode != 2 && capture.thread != thread {
            return Err(
                Status(908).because("a capture ends in the thread that began it, unless it is relaxed")
            );
        }
        let capture = self.captures.remove(&handle).ok_or(Status::INVALID_VALUE)?;
        for s in self.streams.values_mut().filter(|s| s.capture == Some(handle)) {
            s.capture = None;
        }
        if capture.invalid {
            self.drop_graph(capture.graph);
            return Err(Status::STREAM_CAPTURE_INVALIDATED.because("an earlier call spoilt the capture"));
        }
        // All that other streams did must lead back to the origin.
        let graph = self.graph(capture.graph)?;
        let mut reached = vec![false; graph.nodes.len()];
        let mut open = capture.tails[&stream].clone();
        while let Some(node) = open.pop() {
            if !std::mem::replace(&mut reached[node], true) {
                open.extend(&graph.nodes[node].after);
            }
        }
        if let Some(node) = reached.iter().position(|r| !r) {
            self.drop_graph(capture.graph);
            return Err(Status::STREAM_CAPTURE_UNJOINED.because(format!(
                "node {node} was captured in another stream that was not joined with the first"
            )));
        }
        Ok(capture.graph)
    }

    fn drop_graph(&mut self, graph: Handle) {
        if let Some(graph) = self.graphs.remove(&graph) {
            for address in graph.memory {
                self.owners.remove(&address);
                let _ = self.device.memory().free(address);
            }
        }
    }

    /// Adds work to the graph of a capture, after what the stream did last.
    pub fn capture_work(&mut self, capture: Handle, stream: Handle, work: Work) -> Outcome<usize> {
        let work = match work {
            Work::Kernel(call, _) => NodeWork::Kernel(call),
            Work::Copy(mut copy) => {
                // A graph reads its source whenever it runs, so it may well change in between.
                if let Source::Host(_, check) = &mut copy.source {
                    *check = None;
                }
                NodeWork::Copy(copy)
            }
            Work::Fill(fill) => NodeWork::Fill(fill),
            Work::Host(function, data) => NodeWork::Host(function, data),
            Work::Nothing | Work::Record(_) => NodeWork::Empty,
            Work::Alloc => NodeWork::Alloc,
            Work::Free(_) => NodeWork::Free,
            Work::Graph(_) | Work::Callback(..) => {
                return Err(self.spoil(
                    capture,
                    Status::STREAM_CAPTURE_UNSUPPORTED,
                    "this cannot be captured",
                ));
            }
        };
        self.capture_node(capture, stream, work)
    }

    /// Adds a node to the graph of a capture, after what the stream did last.
    pub fn capture_node(&mut self, capture: Handle, stream: Handle, work: NodeWork) -> Outcome<usize> {
        let c = self.captures.get(&capture).ok_or(Status::INVALID_VALUE)?;
        if c.invalid {
            return Err(Status::STREAM_CAPTURE_INVALIDATED.into());
        }
        let (graph, after) = (c.graph, c.tails.get(&stream).cloned().unwrap_or_default());
        let node = self.add_node(graph, work, after)?;
        if let Some(c) = self.captures.get_mut(&capture) {
            c.tails.insert(stream, vec![node]);
        }
        Ok(node)
    }

    /// A stream waits for an event that was recorded in a capture: it joins the capture.
    pub fn capture_wait(&mut self, stream: Handle, capture: Handle, nodes: &[usize]) -> Outcome {
        let own = self.streams.get(&stream).ok_or(Status::INVALID_HANDLE)?.capture;
        match own {
            Some(own) if own != capture => {
                Err(self.spoil(own, Status::STREAM_CAPTURE_MERGE, "the event belongs to another capture"))
            }
            _ => {
                let c = self.captures.get_mut(&capture).ok_or(Status::CAPTURED_EVENT)?;
                let tail = c.tails.entry(stream).or_default();
                tail.extend(nodes);
                tail.sort_unstable();
                tail.dedup();
                if let Some(s) = self.streams.get_mut(&stream) {
                    s.capture = Some(capture);
                }
                Ok(())
            }
        }
    }

    /// Spoils a capture; gives the refusal for the call that did it.
    pub fn spoil(&mut self, capture: Handle, status: Status, why: &str) -> crate::driver::Refusal {
        if let Some(c) = self.captures.get_mut(&capture) {
            c.invalid = true;
        }
        status.because(why)
    }

    /// Refuses to synchronise or query a stream that is being captured.
    pub fn refuse_if_capturing(&mut self, stream: Handle) -> Outcome {
        match self.streams.get(&stream).and_then(|s| s.capture) {
            Some(capture) => Err(self.spoil(
                capture,
                Status::STREAM_CAPTURE_UNSUPPORTED,
                "a stream that is being captured cannot be synchronised or queried",
            )),
            None => Ok(()),
        }
    }

    /// Refuses work in the legacy stream while a blocking stream of the context is being captured.
    pub fn check_implicit(&mut self, stream: Handle) -> Outcome {
        let Some(s) = self.streams.get(&stream) else { return Ok(()) };
        if s.kind != crate::stream::StreamKind::Legacy {
            return Ok(());
        }
        let context = s.context;
        let capturing =
            self.streams.values().find(|o| o.context == context && o.blocking() && o.capture.is_some());
        match capturing.and_then(|o| o.capture) {
            Some(capture) => Err(self.spoil(
                capture,
                Status::STREAM_CAPTURE_IMPLICIT,
                "the legacy stream would wait for a blocking stream that is being captured",
            )),
            None => Ok(()),
        }
    }

    /// Refuses calls that may synchronise (such as `cuMemAlloc`) while a capture forbids them to this thread.
    pub fn refuse_unsafe_call(&mut self, thread: u64) -> Outcome {
        let forbids = |c: &Capture| c.mode == 0 || c.mode == 1 && c.thread == thread;
        let found = self.captures.iter().find(|(_, c)| forbids(c) && !c.invalid).map(|(h, _)| *h);
        match found {
            Some(capture) => Err(self.spoil(
                capture,
                Status::STREAM_CAPTURE_UNSUPPORTED,
                "this call is not allowed while a stream is being captured in this mode",
            )),
            None => Ok(()),
        }
    }
}
