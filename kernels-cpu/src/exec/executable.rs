//! A plan bound to a device and its weights: every step lowered, every weight in its final form, the constants computed.

use super::check::{self, Checks};
use super::context::Context;
use super::kernels;
use super::lower::{Lowering, Ready};
use super::run::{self, Lists, RunOptions, SlotRows, Workspace};
use super::store::{Store, floats_mut};
use super::{BindError, CpuDevice, Session, WeightSource};
use crate::aligned::AlignedBuf;
use selftok_graph::{Place, Plan, Step};
use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

/// A plan ready to run. Immutable and cheap to clone; any number of sessions share it.
#[derive(Clone)]
pub struct Executable {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub plan: Arc<Plan>,
    pub device: CpuDevice,
    pub constants: AlignedBuf,
    pub entries: Vec<ReadyEntry>,
    /// Working space of the step that needs most.
    pub workspace_bytes: usize,
    pub weight_bytes: usize,
}

/// The lowered lists of an entry.
pub(super) struct ReadyEntry {
    pub request: Vec<Ready>,
    pub step: Vec<Ready>,
    pub checks: Checks,
}

/// Memory that an executable holds, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Footprint {
    /// Weights packed or copied; those read in the file's map take nothing.
    pub weights: usize,
    /// Constants computed from weights.
    pub constants: usize,
    /// Each session.
    pub session: usize,
}

impl Executable {
    /// Binds a plan: checks it, packs its weights and computes its constants.
    ///
    /// # Errors
    /// If a weight is missing or misshapen or cannot be read, or the plan asks for what this device cannot do.
    pub fn bind(
        plan: impl Into<Arc<Plan>>,
        source: Arc<dyn WeightSource>,
        device: &CpuDevice,
    ) -> Result<Executable, BindError> {
        let plan = plan.into();
        check::bind(&plan)?;
        let checks = plan.entries.iter().map(|entry| check::entry(&plan, entry));
        let checks = checks.collect::<Result<Vec<_>, _>>()?;
        let store = Store::new(
            Arc::clone(&plan),
            source,
            device.features(),
            (device.format(), device.activations()),
        )?;
        let store = RefCell::new(store);
        let mut constants = AlignedBuf::zeroed(plan.constant_bytes);
        compute_constants(&plan, &mut constants, device, &store)?;
        let known: &[f32] = &*floats_mut(&mut constants, plan.constant_bytes / 4);
        let threads = device.threads();
        let lower = |step| Lowering::lower(&plan, step, threads, Some(known), &store);
        let mut entries = Vec::with_capacity(plan.entries.len());
        for (entry, checks) in plan.entries.iter().zip(checks) {
            let request = entry.request.iter().map(lower).collect::<Result<Vec<_>, _>>()?;
            let step = entry.step.iter().map(lower).collect::<Result<Vec<_>, _>>()?;
            entries.push(ReadyEntry { request, step, checks });
        }
        let steps = entries.iter().flat_map(|entry| entry.request.iter().chain(&entry.step));
        let workspace_bytes = steps.map(|ready| ready.need.total(device.threads())).max().unwrap_or(0);
        let weight_bytes = store.into_inner().bytes;
        let inner = Inner { plan, device: device.clone(), constants, entries, workspace_bytes, weight_bytes };
        Ok(Executable { inner: Arc::new(inner) })
    }

    /// The plan.
    pub fn plan(&self) -> &Plan {
        &self.inner.plan
    }

    /// The device.
    pub fn device(&self) -> &CpuDevice {
        &self.inner.device
    }

    /// Memory held.
    pub fn footprint(&self) -> Footprint {
        let inner = &self.inner;
        let session = inner.session_bytes();
        Footprint { weights: inner.weight_bytes, constants: inner.plan.constant_bytes, session }
    }

    /// A new session: its states are zero.
    pub fn session(&self) -> Session {
        Session::new(self.clone())
    }
}

impl Inner {
    /// First byte of the regions of a session, and its size: state, request, scratch, workspace.
    pub fn layout(&self) -> [usize; 4] {
        let plan = &self.plan;
        let request = plan.state_bytes.next_multiple_of(64);
        let scratch = request + plan.request_bytes.next_multiple_of(64);
        let workspace = scratch + plan.scratch_bytes.next_multiple_of(64);
        [request, scratch, workspace, workspace + self.workspace_bytes]
    }

    pub fn session_bytes(&self) -> usize {
        self.layout()[3]
    }
}

fn weights(step: &Step) -> impl Iterator<Item = u32> + '_ {
    step.kernel.operands().into_iter().filter_map(|(operand, _, _)| match operand.place {
        Place::Weight(id) => Some(id),
        _ => None,
    })
}

/// Writes the literals and runs the bind list, one step at a time: a weight is in memory from its first reader to its last.
fn compute_constants(
    plan: &Plan,
    constants: &mut AlignedBuf,
    device: &CpuDevice,
    store: &RefCell<Store>,
) -> Result<(), BindError> {
    let floats = floats_mut(constants, plan.constant_bytes / 4);
    for (offset, values) in &plan.literals {
        let end = offset.saturating_add(values.len());
        let Some(place) = floats.get_mut(*offset..end) else {
            return Err(BindError::OutOfRegion {
                step: "literals".into(),
                operand: "values",
                region: "Constants".into(),
                end: end as u128,
                len: floats.len(),
            });
        };
        place.copy_from_slice(values);
    }
    let last_reader: HashMap<u32, usize> =
        plan.bind.iter().enumerate().flat_map(|(i, step)| weights(step).map(move |id| (id, i))).collect();
    let (threads, features, format) = (device.threads(), device.features(), device.format());
    let needs = plan.bind.iter().map(|step| kernels::need(step, features, format, threads).total(threads));
    let mut scratch = AlignedBuf::zeroed(plan.bind_scratch_bytes);
    let mut workspace = AlignedBuf::zeroed(needs.max().unwrap_or(0));
    let constants = floats.as_mut_ptr();
    for (i, step) in plan.bind.iter().enumerate() {
        let ready = [Lowering::lower(plan, step, threads, None, store)?];
        let cx = Context {
            features,
            extents: &plan.extents,
            slots: &[],
            constants,
            state: std::ptr::null_mut(),
            request: std::ptr::null_mut(),
            scratch: scratch.as_mut_slice().as_mut_ptr().cast(),
            shared: workspace.as_mut_slice().as_mut_ptr(),
            inputs: &[],
            outputs: &[],
        };
        let workspace = Workspace(cx.shared);
        let (lists, rows) =
            (Lists { request: &ready, step: &[] }, SlotRows { values: &[], width: 0, count: 1 });
        // SAFETY: `check::bind` found every operand inside constants, scratch or a weight; the workspace has the largest need
        // of the list; all of it is this function's own.
        let result =
            unsafe { run::execute(&device.pool, &lists, &cx, rows, workspace, RunOptions::default(), None) };
        result.map_err(BindError::Constants)?;
        store.borrow_mut().forget_bind(|id| last_reader.get(&id).is_some_and(|&last| last > i));
    }
    Ok(())
}
