//! Graphs made by hand or by capture: nodes, instantiation, launch, and changing what an instantiated node does.

use super::launch::{Arguments, prepare};
use crate::abi::{
    GraphInstantiateParams, Handle, HostNodeParams, In, KernelNodeParams, KernelNodeParamsV1, Memcpy3D,
    MemsetNodeParams, Out,
};
use crate::driver::{Held, Outcome};
use crate::graph::{Graph, NodeWork};
use crate::status::Status;
use crate::work::{Fill, KernelCall};
use ptx_emulator::LaunchConfig;
use std::ffi::{c_uint, c_void};

entry! { fn cuGraphCreate(d, out: Out<Handle>, flags: c_uint) {
    if flags != 0 {
        return Err(Status::INVALID_VALUE.into());
    }
    let context = d.current()?;
    let graph = d.handle();
    d.graphs.insert(graph, Graph { context, nodes: Vec::new(), memory: Vec::new() });
    Ok(out.set(graph)?)
}}

entry! { fn cuGraphDestroy(d, graph: Handle) {
    let gone = d.graphs.remove(&graph).ok_or_else(|| Status::INVALID_VALUE.because("no such graph, or a destroyed one"))?;
    if !gone.memory.is_empty() {
        // Runs of what was instantiated from it may still use its memory.
        let _ = d.synchronise_context(gone.context);
        for address in gone.memory {
            if d.owners.contains_key(&address) {
                d.free_now(address);
            }
        }
    }
    Ok(())
}}

entry! { fn cuGraphClone(d, out: Out<Handle>, graph: Handle) {
    let mut copy = d.graph(graph)?.clone();
    copy.memory.clear();
    for node in &mut copy.nodes {
        node.handle = d.handle();
        node.pointers.clear();
    }
    let handle = d.handle();
    d.graphs.insert(handle, copy);
    Ok(out.set(handle)?)
}}

/// Adds a node after the given ones.
fn add(
    d: &mut Held,
    out: Out<Handle>,
    graph: Handle,
    after: In<Handle>,
    n: usize,
    work: NodeWork,
) -> Outcome {
    let handles = if n == 0 { Vec::new() } else { after.list(n)? };
    let positions = d.graph(graph)?.positions(&handles)?;
    let at = d.add_node(graph, work, positions)?;
    Ok(out.set(d.graph(graph)?.nodes[at].handle)?)
}

impl KernelNodeParamsV1 {
    fn to_call(self, d: &mut Held) -> Outcome<KernelCall> {
        let config = LaunchConfig {
            grid: self.grid,
            block: self.block,
            ..LaunchConfig::new(1, 1).shared(self.shared)
        };
        prepare(d, self.function, config, Arguments { params: self.params, extra: self.extra })
    }
}

impl KernelNodeParams {
    /// The first version; a kernel of a library may stand where a function would.
    fn first(self) -> KernelNodeParamsV1 {
        let function = if self.function == 0 { self.kernel } else { self.function };
        KernelNodeParamsV1 {
            function,
            grid: self.grid,
            block: self.block,
            shared: self.shared,
            params: self.params,
            extra: self.extra,
        }
    }
}

entry! { fn cuGraphAddKernelNode(
    d, out: Out<Handle>, graph: Handle, after: In<Handle>, n: usize, params: In<KernelNodeParamsV1>
) {
    let call = params.get()?.to_call(d)?;
    add(d, out, graph, after, n, NodeWork::Kernel(call))
}}

entry! { fn cuGraphAddKernelNode_v2(
    d, out: Out<Handle>, graph: Handle, after: In<Handle>, n: usize, params: In<KernelNodeParams>
) {
    let call = params.get()?.first().to_call(d)?;
    add(d, out, graph, after, n, NodeWork::Kernel(call))
}}

entry! { fn cuGraphAddEmptyNode(d, out: Out<Handle>, graph: Handle, after: In<Handle>, n: usize) {
    add(d, out, graph, after, n, NodeWork::Empty)
}}

entry! { fn cuGraphAddChildGraphNode(
    d, out: Out<Handle>, graph: Handle, after: In<Handle>, n: usize, child: Handle
) {
    let nodes = d.graph(child)?.nodes.clone();
    add(d, out, graph, after, n, NodeWork::Graph(nodes))
}}

fn host_work(params: In<HostNodeParams>) -> Outcome<NodeWork> {
    let params = params.get()?;
    Ok(NodeWork::Host(params.function.ok_or(Status::INVALID_VALUE)?, params.data as usize))
}

entry! { fn cuGraphAddHostNode(
    d, out: Out<Handle>, graph: Handle, after: In<Handle>, n: usize, params: In<HostNodeParams>
) { add(d, out, graph, after, n, host_work(params)?) } }

fn copy_work(d: &mut Held, params: In<Memcpy3D>) -> Outcome<NodeWork> {
    let copy = params.get()?.to_copy(d)?;
    for access in copy.accesses() {
        d.check_range(access.start, access.len)?;
    }
    Ok(NodeWork::Copy(copy))
}

entry! { fn cuGraphAddMemcpyNode(
    d, out: Out<Handle>, graph: Handle, after: In<Handle>, n: usize, params: In<Memcpy3D>, _context: Handle
) {
    let work = copy_work(d, params)?;
    add(d, out, graph, after, n, work)
}}

fn fill_work(d: &mut Held, params: In<MemsetNodeParams>) -> Outcome<NodeWork> {
    let p = params.get()?;
    if !matches!(p.element_size, 1 | 2 | 4) || !p.destination.is_multiple_of(u64::from(p.element_size)) {
        return Err(Status::INVALID_VALUE.because("elements are 1, 2 or 4 bytes and aligned to their size"));
    }
    let size = p.element_size as usize;
    p.width.checked_mul(size).zip(p.height.checked_mul(p.pitch)).ok_or(Status::INVALID_VALUE)?;
    let fill =
        Fill { address: p.destination, pitch: p.pitch, value: p.value, size, width: p.width, rows: p.height };
    let access = fill.access();
    d.check_range(access.start, access.len)?;
    Ok(NodeWork::Fill(fill))
}

entry! { fn cuGraphAddMemsetNode(
    d, out: Out<Handle>, graph: Handle, after: In<Handle>, n: usize, params: In<MemsetNodeParams>, _context: Handle
) {
    let work = fill_work(d, params)?;
    add(d, out, graph, after, n, work)
}}

/// `CUgraphEdgeData`: ports and kind of an edge. All zeros is the only edge that is modelled: the whole of one node before the
/// whole of another.
type EdgeData = [u8; 8];

/// Refuses edges that are more than an order.
fn plain_edges(data: In<EdgeData>, n: usize) -> Outcome {
    if data.is_null() || data.list(n)?.iter().all(|edge| *edge == [0; 8]) {
        return Ok(());
    }
    Err(Status::NOT_SUPPORTED
        .because("edges with ports or of another kind (programmatic launches) are not modelled"))
}

fn add_edges(d: &mut Held, graph: Handle, from: In<Handle>, to: In<Handle>, n: usize) -> Outcome {
    let g = d.graph(graph)?;
    let (from, to) = (g.positions(&from.list(n)?)?, g.positions(&to.list(n)?)?);
    for (a, b) in from.into_iter().zip(to) {
        if a == b || g.nodes[b].after.contains(&a) {
            return Err(Status::INVALID_VALUE.because("the dependency is there already, or leads to itself"));
        }
        g.nodes[b].after.push(a);
    }
    Ok(())
}

entry! { fn cuGraphAddDependencies(d, graph: Handle, from: In<Handle>, to: In<Handle>, n: usize) {
    add_edges(d, graph, from, to, n)
}}

entry! { fn cuGraphAddDependencies_v2(
    d, graph: Handle, from: In<Handle>, to: In<Handle>, data: In<EdgeData>, n: usize
) {
    plain_edges(data, n)?;
    add_edges(d, graph, from, to, n)
}}

fn remove_edges(d: &mut Held, graph: Handle, from: In<Handle>, to: In<Handle>, n: usize) -> Outcome {
    let g = d.graph(graph)?;
    let (from, to) = (g.positions(&from.list(n)?)?, g.positions(&to.list(n)?)?);
    for (a, b) in from.into_iter().zip(to) {
        let at = g.nodes[b].after.iter().position(|k| *k == a).ok_or(Status::INVALID_VALUE)?;
        g.nodes[b].after.remove(at);
    }
    Ok(())
}

entry! { fn cuGraphRemoveDependencies(d, graph: Handle, from: In<Handle>, to: In<Handle>, n: usize) {
    remove_edges(d, graph, from, to, n)
}}

entry! { fn cuGraphRemoveDependencies_v2(
    d, graph: Handle, from: In<Handle>, to: In<Handle>, data: In<EdgeData>, n: usize
) {
    plain_edges(data, n)?;
    remove_edges(d, graph, from, to, n)
}}

/// Hands out a list: the count alone when there is no place, else as many as fit and zeros behind.
fn hand_out(list: Vec<Handle>, place: Out<Handle>, count: Out<usize>) -> Outcome {
    if place.is_null() {
        return Ok(count.set(list.len())?);
    }
    let room = count.get()?;
    let given = list.len().min(room);
    place.set_all(list.into_iter().chain(std::iter::repeat(0)).take(room))?;
    Ok(count.set(given)?)
}

entry! { fn cuGraphGetNodes(d, graph: Handle, nodes: Out<Handle>, count: Out<usize>) {
    let list = d.graph(graph)?.nodes.iter().map(|n| n.handle).collect();
    hand_out(list, nodes, count)
}}

entry! { fn cuGraphGetRootNodes(d, graph: Handle, nodes: Out<Handle>, count: Out<usize>) {
    let list = d.graph(graph)?.nodes.iter().filter(|n| n.after.is_empty()).map(|n| n.handle).collect();
    hand_out(list, nodes, count)
}}

fn edges(d: &mut Held, graph: Handle, from: Out<Handle>, to: Out<Handle>, count: Out<usize>) -> Outcome {
    let nodes = &d.graph(graph)?.nodes;
    let edges: Vec<(Handle, Handle)> =
        nodes.iter().flat_map(|n| n.after.iter().map(|a| (nodes[*a].handle, n.handle))).collect();
    if from.is_null() != to.is_null() {
        return Err(Status::INVALID_VALUE.into());
    }
    let room = if from.is_null() { 0 } else { count.get()? };
    let (a, b): (Vec<Handle>, Vec<Handle>) = edges.into_iter().unzip();
    let mut again = room;
    hand_out(a, from, count)?;
    hand_out(b, to, if to.is_null() { count } else { Out::from(&mut again) })
}

entry! { fn cuGraphGetEdges(d, graph: Handle, from: Out<Handle>, to: Out<Handle>, count: Out<usize>) {
    edges(d, graph, from, to, count)
}}

entry! { fn cuGraphGetEdges_v2(
    d, graph: Handle, from: Out<Handle>, to: Out<Handle>, data: Out<EdgeData>, count: Out<usize>
) {
    edges(d, graph, from, to, count)?;
    hand_out_data(data, from.is_null(), count)
}}

/// Says of each edge that was handed out that it is plain.
fn hand_out_data(data: Out<EdgeData>, counted_only: bool, count: Out<usize>) -> Outcome {
    if !data.is_null() && !counted_only {
        data.set_all(std::iter::repeat_n([0; 8], count.get()?))?;
    }
    Ok(())
}

entry! { fn cuGraphNodeGetType(d, node: Handle, kind: Out<c_uint>) {
    Ok(kind.set(d.node(node)?.work.kind())?)
}}

fn neighbours(d: &mut Held, node: Handle, before: bool) -> Outcome<Vec<Handle>> {
    d.node(node)?;
    let graph =
        d.graphs.values().find(|g| g.nodes.iter().any(|n| n.handle == node)).ok_or(Status::INVALID_VALUE)?;
    let at = graph.positions(&[node])?[0];
    Ok(if before {
        graph.nodes[at].after.iter().map(|a| graph.nodes[*a].handle).collect()
    } else {
        graph.nodes.iter().filter(|n| n.after.contains(&at)).map(|n| n.handle).collect()
    })
}

entry! { fn cuGraphNodeGetDependencies(d, node: Handle, out: Out<Handle>, count: Out<usize>) {
    let list = neighbours(d, node, true)?;
    hand_out(list, out, count)
}}

entry! { fn cuGraphNodeGetDependentNodes(d, node: Handle, out: Out<Handle>, count: Out<usize>) {
    let list = neighbours(d, node, false)?;
    hand_out(list, out, count)
}}

entry! { fn cuGraphNodeGetDependencies_v2(
    d, node: Handle, out: Out<Handle>, data: Out<EdgeData>, count: Out<usize>
) {
    let list = neighbours(d, node, true)?;
    hand_out(list, out, count)?;
    hand_out_data(data, out.is_null(), count)
}}

entry! { fn cuGraphNodeGetDependentNodes_v2(
    d, node: Handle, out: Out<Handle>, data: Out<EdgeData>, count: Out<usize>
) {
    let list = neighbours(d, node, false)?;
    hand_out(list, out, count)?;
    hand_out_data(data, out.is_null(), count)
}}

entry! { fn cuGraphDestroyNode(d, node: Handle) {
    d.node(node)?;
    for graph in d.graphs.values_mut() {
        let Some(at) = graph.nodes.iter().position(|n| n.handle == node) else { continue };
        graph.nodes.remove(at);
        for n in &mut graph.nodes {
            n.after.retain(|a| *a != at);
            for a in &mut n.after {
                *a -= usize::from(*a > at);
            }
        }
    }
    Ok(())
}}

entry! { fn cuGraphKernelNodeGetParams_v2(d, node: Handle, out: Out<KernelNodeParams>) {
    let context = d.current_any().unwrap_or(0);
    let n = d.node(node)?;
    let NodeWork::Kernel(call) = &n.work else {
        return Err(Status::INVALID_VALUE.because("not a kernel node"));
    };
    let kernel = call.loaded.module().kernel(&call.name).ok_or(Status::INVALID_HANDLE)?;
    // The pointers, and the bytes they point to, live until the node is changed or destroyed.
    let pointers = kernel.params.iter().map(|p| call.args.as_ptr() as usize + p.offset as usize).collect();
    let params = KernelNodeParams {
        function: call.function,
        grid: call.config.grid,
        block: call.config.block,
        shared: call.config.shared_bytes,
        params: In(std::ptr::null()),
        extra: In(std::ptr::null()),
        kernel: 0,
        context,
    };
    n.pointers = pointers;
    Ok(out.set(KernelNodeParams { params: In(n.pointers.as_ptr().cast()), ..params })?)
}}

entry! { fn cuGraphKernelNodeSetParams_v2(d, node: Handle, params: In<KernelNodeParams>) {
    let call = params.get()?.first().to_call(d)?;
    let n = d.node(node)?;
    if n.work.kind() != 0 {
        return Err(Status::INVALID_VALUE.because("not a kernel node"));
    }
    n.work = NodeWork::Kernel(call);
    n.pointers.clear();
    Ok(())
}}

/// Changes what a node of an instantiated graph does, at its next launch.
fn set_exec(d: &mut Held, exec: Handle, node: Handle, work: NodeWork) -> Outcome {
    let n = d.exec_node(exec, node)?;
    if n.work.kind() != work.kind() {
        return Err(Status::INVALID_VALUE.because("the node is of another kind"));
    }
    n.work = work;
    Ok(())
}

entry! { fn cuGraphExecKernelNodeSetParams(d, exec: Handle, node: Handle, params: In<KernelNodeParamsV1>) {
    let call = params.get()?.to_call(d)?;
    set_exec(d, exec, node, NodeWork::Kernel(call))
}}

entry! { fn cuGraphExecKernelNodeSetParams_v2(d, exec: Handle, node: Handle, params: In<KernelNodeParams>) {
    let call = params.get()?.first().to_call(d)?;
    set_exec(d, exec, node, NodeWork::Kernel(call))
}}

entry! { fn cuGraphExecMemcpyNodeSetParams(d, exec: Handle, node: Handle, params: In<Memcpy3D>, _context: Handle) {
    let work = copy_work(d, params)?;
    set_exec(d, exec, node, work)
}}

entry! { fn cuGraphExecMemsetNodeSetParams(
    d, exec: Handle, node: Handle, params: In<MemsetNodeParams>, _context: Handle
) {
    let work = fill_work(d, params)?;
    set_exec(d, exec, node, work)
}}

entry! { fn cuGraphExecHostNodeSetParams(d, exec: Handle, node: Handle, params: In<HostNodeParams>) {
    set_exec(d, exec, node, host_work(params)?)
}}

entry! { fn cuGraphNodeSetEnabled(d, exec: Handle, node: Handle, enabled: c_uint) {
    let n = d.exec_node(exec, node)?;
    if n.work.kind() > 2 {
        return Err(Status::INVALID_VALUE.because("only kernel, memcpy and memset nodes can be disabled"));
    }
    n.enabled = enabled != 0;
    Ok(())
}}

entry! { fn cuGraphNodeGetEnabled(d, exec: Handle, node: Handle, enabled: Out<c_uint>) {
    let on = d.exec_node(exec, node)?.enabled;
    Ok(enabled.set(c_uint::from(on))?)
}}

entry! { fn cuGraphInstantiateWithFlags(d, out: Out<Handle>, graph: Handle, flags: u64) {
    let exec = d.instantiate(graph, flags)?;
    Ok(out.set(exec)?)
}}

entry! { fn cuGraphInstantiate_v2(
    d, out: Out<Handle>, graph: Handle, _error_node: Out<Handle>, _log: *mut c_void, _len: usize
) {
    let exec = d.instantiate(graph, 0)?;
    Ok(out.set(exec)?)
}}

entry! { fn cuGraphInstantiateWithParams | cuGraphInstantiateWithParams_ptsz(
    d, out: Out<Handle>, graph: Handle, params: Out<GraphInstantiateParams>
) {
    let given = params.get()?;
    let made = d.instantiate(graph, given.flags);
    params.set(GraphInstantiateParams { error_node: 0, result: c_uint::from(made.is_err()), ..given })?;
    Ok(out.set(made?)?)
}}

entry! { fn cuGraphExecGetFlags(d, exec: Handle, flags: Out<u64>) {
    let exec = d.execs.get(&exec).ok_or(Status::INVALID_HANDLE)?;
    Ok(flags.set(exec.flags)?)
}}

/// `CUgraphExecUpdateResultInfo`: result, and the two nodes that do not fit.
#[repr(C)]
#[derive(Clone, Copy)]
struct UpdateResult {
    result: c_uint,
    node: Handle,
    from: Handle,
}

entry! { fn cuGraphExecUpdate_v2(d, exec: Handle, graph: Handle, info: Out<UpdateResult>) {
    let nodes = d.graph(graph)?.nodes.clone();
    let e = d.execs.get_mut(&exec).ok_or(Status::INVALID_HANDLE)?;
    let differs = |k: usize| {
        let (old, new) = (&e.nodes[k], &nodes[k]);
        old.work.kind() != new.work.kind() || old.after != new.after
    };
    // 1 error, 2 topology changed.
    if e.nodes.len() != nodes.len() || (0..nodes.len()).any(differs) {
        info.set(UpdateResult { result: 2, node: 0, from: 0 })?;
        return Err(Status::GRAPH_EXEC_UPDATE_FAILURE.because("the graphs differ in their nodes or dependencies"));
    }
    for (old, new) in e.nodes.iter_mut().zip(nodes) {
        old.work = new.work;
    }
    Ok(info.set(UpdateResult { result: 0, node: 0, from: 0 })?)
}}

entry! { fn cuGraphUpload | cuGraphUpload_ptsz(d, exec: Handle, stream: Handle) {
    d.resolve_stream(stream)?;
    d.execs.get(&exec).map(|_| ()).ok_or_else(|| Status::INVALID_HANDLE.because("no such instantiated graph"))
}}

entry! { fn cuGraphLaunch | cuGraphLaunch_ptsz(d, exec: Handle, stream: Handle) {
    let stream = d.resolve_stream(stream)?;
    let work = d.graph_launch(exec)?;
    if d.leaves_out("launch") {
        return Ok(());
    }
    let stream = d.swapped(stream);
    d.submit(stream, work, &[])?;
    Ok(())
}}

entry! { fn cuGraphExecDestroy(d, exec: Handle) {
    // Runs that are queued have their own copy of the nodes.
    d.execs.remove(&exec).map(|_| ()).ok_or_else(|| Status::INVALID_HANDLE.because("no such instantiated graph"))
}}
