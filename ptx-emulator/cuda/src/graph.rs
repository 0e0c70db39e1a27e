//! Graphs: nodes with dependencies, instantiated into a copy of their own, and run so that nodes which nothing orders
//! happen in any order, a little of each at a time.

use crate::abi::{Handle, HostFn};
use crate::driver::{Driver, Held, Outcome};
use crate::history::{Access, Footprint, NodePlace, Place};
use crate::status::Status;
use crate::work::{Copy, Fill, KernelCall, Work};
use ptx_emulator::FindingKind;
use std::collections::BTreeSet;
use std::sync::Arc;

/// What a node does.
#[derive(Clone)]
pub enum NodeWork {
    /// A kernel.
    Kernel(KernelCall),
    /// A copy.
    Copy(Copy),
    /// A fill.
    Fill(Fill),
    /// A call of the host.
    Host(HostFn, usize),
    /// Nothing: a meeting point.
    Empty,
    /// A graph of its own.
    Graph(Vec<Node>),
    /// Memory that the graph has (its address was fixed when the node was made).
    Alloc,
    /// The end of such memory's use.
    Free,
}

impl NodeWork {
    /// `CUgraphNodeType`.
    pub fn kind(&self) -> u32 {
        match self {
            NodeWork::Kernel(_) => 0,
            NodeWork::Copy(_) => 1,
            NodeWork::Fill(_) => 2,
            NodeWork::Host(..) => 3,
            NodeWork::Graph(_) => 4,
            NodeWork::Empty => 5,
            NodeWork::Alloc => 10,
            NodeWork::Free => 11,
        }
    }

    fn accesses(&self) -> Vec<Access> {
        match self {
            NodeWork::Copy(copy) => copy.accesses(),
            NodeWork::Fill(fill) => vec![fill.access()],
            NodeWork::Graph(nodes) => nodes.iter().flat_map(|n| n.work.accesses()).collect(),
            _ => Vec::new(),
        }
    }

    fn to_work(&self) -> Work {
        match self {
            NodeWork::Kernel(call) => Work::Kernel(call.clone(), None),
            NodeWork::Copy(copy) => Work::Copy(copy.clone()),
            NodeWork::Fill(fill) => Work::Fill(fill.clone()),
            NodeWork::Host(function, data) => Work::Host(*function, *data),
            NodeWork::Graph(nodes) => Work::Graph(Box::new(GraphRun::new(nodes))),
            NodeWork::Empty | NodeWork::Alloc | NodeWork::Free => Work::Nothing,
        }
    }
}

/// A node.
#[derive(Clone)]
pub struct Node {
    /// Its handle, the same in the graph and in what is instantiated from it.
    pub handle: Handle,
    /// What it does.
    pub work: NodeWork,
    /// The nodes before it, by position.
    pub after: Vec<usize>,
    /// A disabled node does nothing.
    pub enabled: bool,
    /// Argument pointers handed out by `cuGraphKernelNodeGetParams`.
    pub pointers: Vec<usize>,
}

/// A graph.
#[derive(Clone)]
pub struct Graph {
    /// The context it was made in.
    pub context: Handle,
    /// Nodes.
    pub nodes: Vec<Node>,
    /// Memory that goes with it.
    pub memory: Vec<u64>,
}

/// An instantiated graph.
pub struct Exec {
    /// The context.
    pub context: Handle,
    /// Its nodes.
    pub nodes: Vec<Node>,
    /// Flags of the instantiation.
    pub flags: u64,
}

impl Graph {
    /// The positions of nodes by handle.
    pub fn positions(&self, handles: &[Handle]) -> Outcome<Vec<usize>> {
        let at = |h: &Handle| self.nodes.iter().position(|n| n.handle == *h);
        handles
            .iter()
            .map(|h| {
                at(h).ok_or_else(|| Status::INVALID_VALUE.because(format!("{h:#x} is no node of this graph")))
            })
            .collect()
    }
}

/// Everything before each node; `None` when there is a cycle.
fn ancestors(nodes: &[Node]) -> Option<Vec<BTreeSet<usize>>> {
    let mut before: Vec<Option<BTreeSet<usize>>> = vec![None; nodes.len()];
    loop {
        let mut moved = false;
        for (k, node) in nodes.iter().enumerate() {
            if before[k].is_some() {
                continue;
            }
            let known: Option<Vec<&BTreeSet<usize>>> =
                node.after.iter().map(|&a| before[a].as_ref()).collect();
            if let Some(known) = known {
                let mut all: BTreeSet<usize> = known.into_iter().flatten().copied().collect();
                all.extend(&node.after);
                before[k] = Some(all);
                moved = true;
            }
        }
        if !moved {
            return before.into_iter().collect();
        }
    }
}

impl Driver {
    /// The graph of a handle.
    pub fn graph(&mut self, handle: Handle) -> Outcome<&mut Graph> {
        self.graphs.get_mut(&handle).ok_or_else(|| {
            Status::INVALID_VALUE.because(format!("{handle:#x} is no graph, or a destroyed one"))
        })
    }

    /// The node of a handle.
    pub fn node(&mut self, handle: Handle) -> Outcome<&mut Node> {
        self.graphs.values_mut().flat_map(|g| &mut g.nodes).find(|n| n.handle == handle).ok_or_else(|| {
            Status::INVALID_VALUE.because(format!("{handle:#x} is no node, or a destroyed one"))
        })
    }

    /// The node of an instantiated graph that comes from a node.
    pub fn exec_node(&mut self, exec: Handle, node: Handle) -> Outcome<&mut Node> {
        let exec = self.execs.get_mut(&exec).ok_or(Status::INVALID_HANDLE)?;
        let found = exec.nodes.iter_mut().find(|n| n.handle == node);
        found.ok_or_else(|| {
            Status::INVALID_VALUE.because(format!("{node:#x} is no node of this instantiated graph"))
        })
    }

    /// Adds a node after those at the given positions.
    pub fn add_node(&mut self, graph: Handle, work: NodeWork, after: Vec<usize>) -> Outcome<usize> {
        let handle = self.handle();
        let graph = self.graph(graph)?;
        graph.nodes.push(Node { handle, work, after, enabled: true, pointers: Vec::new() });
        Ok(graph.nodes.len() - 1)
    }
}

impl Held {
    /// Instantiates a graph. Nodes that conflict and are not ordered are findings.
    pub fn instantiate(&mut self, handle: Handle, flags: u64) -> Outcome<Handle> {
        let mut graph = self.graph(handle)?.clone();
        self.mutate_graph(&mut graph.nodes);
        let before = ancestors(&graph.nodes)
            .ok_or_else(|| Status::INVALID_VALUE.because("the graph's dependencies form a cycle"))?;
        for (k, node) in graph.nodes.iter().enumerate() {
            for (j, other) in graph.nodes.iter().enumerate().take(k) {
                if before[k].contains(&j) || before[j].contains(&k) {
                    continue;
                }
                let (mine, theirs) = (node.work.accesses(), other.work.accesses());
                let conflict = mine
                    .iter()
                    .find_map(|a| theirs.iter().find(|b| a.conflicts(b)).map(|b| a.start.max(b.start)));
                if let Some(address) = conflict {
                    let message = format!(
                        "nodes {j} and {k} of a graph touch the same memory and neither waits for the other"
                    );
                    self.report.host_finding(FindingKind::Race, "graph", Some(address), message);
                }
            }
        }
        let exec = self.handle();
        self.execs.insert(exec, Exec { context: graph.context, nodes: graph.nodes, flags });
        Ok(exec)
    }

    /// The work of one launch of an instantiated graph.
    pub fn graph_launch(&self, exec: Handle) -> Outcome<Work> {
        let exec = self.execs.get(&exec).ok_or(Status::INVALID_HANDLE)?;
        Ok(Work::Graph(Box::new(GraphRun::new(&exec.nodes))))
    }
}

/// One run of a graph.
pub struct GraphRun {
    work: Vec<Option<Work>>,
    after: Vec<Vec<usize>>,
    /// Device memory that copies and fills touch, entered when they run; kernels tell theirs.
    accesses: Vec<Vec<Access>>,
    /// All nodes before each.
    before: Vec<Arc<BTreeSet<usize>>>,
}

impl GraphRun {
    /// All nodes still to be done.
    pub fn new(nodes: &[Node]) -> GraphRun {
        let before = ancestors(nodes).unwrap_or_else(|| vec![BTreeSet::new(); nodes.len()]);
        GraphRun {
            accesses: nodes.iter().map(|n| if n.enabled { n.work.accesses() } else { Vec::new() }).collect(),
            before: before.into_iter().map(Arc::new).collect(),
            work: nodes
                .iter()
                .map(|n| Some(if n.enabled { n.work.to_work() } else { Work::Nothing }))
                .collect(),
            after: nodes.iter().map(|n| n.after.clone()).collect(),
        }
    }

    /// The kernels that are still to be run.
    pub fn kernels(&self) -> impl Iterator<Item = &KernelCall> {
        self.work.iter().flatten().filter_map(|work| match work {
            Work::Kernel(call, _) => Some(call),
            _ => None,
        })
    }
}

impl Held {
    /// Moves one node that may move. True when all are done.
    pub fn run_graph(&mut self, run: &mut GraphRun, place: &Place, budget: u64) -> bool {
        let free = |k: &usize| run.work[*k].is_some() && run.after[*k].iter().all(|a| run.work[*a].is_none());
        let ready: Vec<usize> = (0..run.work.len()).filter(free).collect();
        if ready.is_empty() {
            return true;
        }
        let node = ready[self.random.below(ready.len())];
        let budget = if ready.len() > 1 { budget.min(2_000) } else { budget };
        // Within a graph of a graph, all is at the node of the outer one.
        let here = place.node.clone().unwrap_or(NodePlace { node, before: run.before[node].clone() });
        let place = Place { node: Some(here), ..place.clone() };
        let accesses = std::mem::take(&mut run.accesses[node]);
        if !accesses.is_empty()
            && let Some(work) = &run.work[node]
        {
            let what = format!("{} of a graph in stream {:#x}", work.describe(), place.stream);
            self.judge(Footprint::new(accesses), &place, &what);
        }
        if let Some(mut work) = run.work[node].take()
            && !self.run_work(&mut work, &place, budget)
        {
            run.work[node] = Some(work);
        }
        run.work.iter().all(Option::is_none)
    }
}
