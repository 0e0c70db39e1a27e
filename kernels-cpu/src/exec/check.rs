//! That nothing is read or written outside its region, whatever the slots say.
//!
//! What does not move is checked once, at bind: every operand at its maximum. What moves is checked at the start of a run
//! against every row of the slot table, before any kernel runs: live ranges, rows picked by a slot, positions of a
//! rotary table, and the caller's slices, which need to reach no further than the last live row.

use super::context::Slice;
use super::lower::step_name;
use super::{BindError, RunError};
use selftok_graph::{Access, Entry, ExtentId, Kernel, Operand, Place, Plan, Slot, Step};
use std::collections::HashSet;

/// How far an operand may reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Bound {
    Fixed(usize),
    Input(u32),
    Output(u32),
}

/// An operand whose reach depends on the run.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Moving {
    what: String,
    bound: Bound,
    offset: usize,
    axes: Vec<(usize, Option<ExtentId>, usize)>,
    picks: Vec<(Slot, usize)>,
}

/// Rows of a rotary table that a step reads.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Positions {
    what: String,
    rows: usize,
    extent: Option<ExtentId>,
    offset: Option<Slot>,
    table: usize,
}

/// What is checked at the start of each run of an entry.
#[derive(Debug, Default)]
pub(super) struct Checks {
    extents: Vec<ExtentId>,
    moving: Vec<Moving>,
    positions: Vec<Positions>,
}

/// Checks the states and the steps of bind.
pub(super) fn bind(plan: &Plan) -> Result<(), BindError> {
    let checks = steps(plan, None, &plan.bind)?;
    for state in &plan.states {
        let end = state.shape.iter().try_fold(1usize, |n, &size| n.checked_mul(size));
        let end = end.and_then(|n| n.checked_add(state.offset)).unwrap_or(usize::MAX);
        if end > plan.state_bytes / 4 {
            let what = format!("'{}' ends at element {end} of {}", state.name, plan.state_bytes / 4);
            return Err(inconsistent("states", what));
        }
    }
    match checks.moving.is_empty()
        && checks.extents.is_empty()
        && checks.positions.iter().all(|p| p.offset.is_none())
    {
        true => Ok(()),
        false => Err(inconsistent("bind", "a step reads slots, which bind does not have".into())),
    }
}

/// Checks an entry's steps and gathers what its runs have to check.
pub(super) fn entry(plan: &Plan, entry: &Entry) -> Result<Checks, BindError> {
    let mut checks = steps(plan, Some(entry), entry.request.iter().chain(&entry.step))?;
    for port in entry.inputs.iter().chain(&entry.outputs) {
        for axis in &port.axes {
            if let Some(extent) = axis.extent {
                defined(plan, &port.name, extent, axis.size)?;
                checks.extents.push(extent);
            }
        }
    }
    checks.extents.sort_unstable();
    checks.extents.dedup();
    Ok(checks)
}

fn inconsistent(step: &str, what: String) -> BindError {
    BindError::Inconsistent { step: step.into(), what }
}

fn defined(plan: &Plan, step: &str, extent: ExtentId, size: usize) -> Result<(), BindError> {
    let Some(found) = plan.extents.get(extent.0 as usize) else {
        return Err(inconsistent(step, format!("extent {} of {}", extent.0, plan.extents.len())));
    };
    if found.max > size {
        return Err(inconsistent(
            step,
            format!("extent '{}' of {} over an axis of {size}", found.name, found.max),
        ));
    }
    let slots = plan.slots.len();
    match found.lo.into_iter().chain([found.hi]).find(|slot| slot.0 as usize >= slots) {
        Some(slot) => Err(inconsistent(step, format!("slot {} of {slots}", slot.0))),
        None => Ok(()),
    }
}

fn steps<'a>(
    plan: &Plan,
    entry: Option<&Entry>,
    steps: impl IntoIterator<Item = &'a Step>,
) -> Result<Checks, BindError> {
    let mut checks = Checks::default();
    let (mut moving, mut positions) = (HashSet::new(), HashSet::new());
    for step in steps {
        let name = step_name(step);
        for (operand, role, access) in step.kernel.operands() {
            for axis in &operand.axes {
                if let Some(extent) = axis.extent {
                    defined(plan, &name, extent, axis.size)?;
                    checks.extents.push(extent);
                }
                if axis.stride < 0 {
                    let reason = format!("negative stride {}", axis.stride);
                    return Err(BindError::Layout { step: name, operand: role, reason });
                }
            }
            let slots = operand.picks.iter().map(|(slot, _)| *slot);
            let extra = match &step.kernel {
                Kernel::Rope { offset, .. } => *offset,
                Kernel::Attention { mask: selftok_graph::Mask::Causal { offset }, .. } => *offset,
                _ => None,
            };
            if let Some(slot) = slots.chain(extra).find(|slot| slot.0 as usize >= plan.slots.len()) {
                return Err(inconsistent(&name, format!("slot {} of {}", slot.0, plan.slots.len())));
            }
            let written = access == Access::Write;
            let fixed = matches!(operand.place, Place::Weight(_) | Place::Input(_))
                || (operand.place == Place::Constants && entry.is_some());
            if written && fixed {
                return Err(inconsistent(&name, format!("writes '{role}' in {:?}", operand.place)));
            }
            if let Some(check) = reach(plan, entry, operand, role, &name)? {
                moving.insert(check);
            }
        }
        if let Kernel::Rope { table, offset, out, .. } = &step.kernel {
            let (Some(rows), Some(table)) = (out.axes.get(1), table.axes.first()) else {
                let reason = "expected x [B, N, heads * D] and table [P, R]".into();
                return Err(BindError::Layout { step: name, operand: "x", reason });
            };
            let (rows, extent, table) = (rows.size, rows.extent, table.size);
            positions.insert(Positions { what: name, rows, extent, offset: *offset, table });
        }
    }
    for check in positions.iter().filter(|check| check.extent.is_none() && check.offset.is_none()) {
        if check.rows > check.table {
            let what = format!("{} rows, the rotary table has {}", check.rows, check.table);
            return Err(inconsistent(&check.what, what));
        }
    }
    checks.moving = moving.into_iter().collect();
    checks.positions = positions.into_iter().collect();
    Ok(checks)
}

/// Elements of a region, or whose length bounds it.
fn bound(plan: &Plan, entry: Option<&Entry>, operand: &Operand, step: &str) -> Result<Bound, BindError> {
    let port = |ports: Option<&Vec<selftok_graph::Port>>, i: u32| match ports.and_then(|p| p.get(i as usize))
    {
        Some(_) => Ok(()),
        None => Err(inconsistent(step, format!("{:?} is not a port", operand.place))),
    };
    Ok(match operand.place {
        Place::Weight(id) => match plan.weights.get(id as usize) {
            Some(weight) => Bound::Fixed(weight.shape.iter().product()),
            None => return Err(inconsistent(step, format!("weight {id} of {}", plan.weights.len()))),
        },
        Place::Constants => Bound::Fixed(plan.constant_bytes / 4),
        Place::State if entry.is_none() => Bound::Fixed(0),
        Place::Request if entry.is_none() => Bound::Fixed(0),
        Place::State => {
            // A picked row must not lead from one state into the next.
            let state = plan.states.iter().map(|s| (s.offset, s.offset + s.shape.iter().product::<usize>()));
            let holding =
                state.filter(|(from, to)| (*from..*to).contains(&operand.offset)).map(|(_, to)| to).max();
            Bound::Fixed(holding.unwrap_or(plan.state_bytes / 4).min(plan.state_bytes / 4))
        }
        Place::Request => Bound::Fixed(within(entry, operand, plan.request_bytes)),
        Place::Scratch if entry.is_none() => Bound::Fixed(plan.bind_scratch_bytes / 4),
        Place::Scratch => Bound::Fixed(within(entry, operand, plan.scratch_bytes)),
        Place::Input(i) => {
            port(entry.map(|entry| &entry.inputs), i)?;
            Bound::Input(i)
        }
        Place::Output(i) => {
            port(entry.map(|entry| &entry.outputs), i)?;
            Bound::Output(i)
        }
    })
}

/// One past the last element that an operand may reach in a region of so many bytes: a row picked by a slot must not lead
/// from one buffer into the next, where the plan says what the buffers are.
fn within(entry: Option<&Entry>, operand: &Operand, region: usize) -> usize {
    let buffers = entry.map_or(&[][..], |entry| &entry.buffers);
    let holding = buffers.iter().filter(|buffer| {
        let bytes = buffer.offset..buffer.offset + buffer.bytes;
        buffer.place == operand.place && bytes.contains(&(operand.offset * 4))
    });
    let end = holding.map(|buffer| buffer.offset + buffer.bytes).max().filter(|_| !operand.picks.is_empty());
    end.unwrap_or(region).min(region) / 4
}

/// Checks an operand that stays where it is; gives the check of one that moves.
fn reach(
    plan: &Plan,
    entry: Option<&Entry>,
    operand: &Operand,
    role: &'static str,
    step: &str,
) -> Result<Option<Moving>, BindError> {
    let bound = bound(plan, entry, operand, step)?;
    let mut end = operand.offset as u128;
    if operand.axes.iter().any(|axis| axis.size == 0) {
        return Ok(None);
    }
    for axis in &operand.axes {
        end += (axis.size as u128 - 1) * axis.stride.unsigned_abs() as u128;
    }
    end += 1;
    let len = match bound {
        Bound::Fixed(len) if operand.picks.is_empty() => len,
        // A slice of the caller is at most the port: what must hold of it is checked with the run.
        Bound::Input(i) => port_len(entry.and_then(|e| e.inputs.get(i as usize))),
        Bound::Output(i) => port_len(entry.and_then(|e| e.outputs.get(i as usize))),
        Bound::Fixed(_) => usize::MAX,
    };
    if end > len as u128 && operand.picks.is_empty() {
        let region = format!("{:?}", operand.place);
        return Err(BindError::OutOfRegion { step: step.into(), operand: role, region, end, len });
    }
    if operand.picks.is_empty() && matches!(bound, Bound::Fixed(_)) {
        return Ok(None);
    }
    let axes = operand.axes.iter().map(|a| (a.size, a.extent, a.stride.unsigned_abs())).collect();
    let what = format!("'{role}' of {step}");
    Ok(Some(Moving { what, bound, offset: operand.offset, axes, picks: operand.picks.clone() }))
}

/// Elements of a port if everything is live.
pub(super) fn port_len(port: Option<&selftok_graph::Port>) -> usize {
    port.map_or(0, |port| port.axes.iter().map(|axis| axis.size).product())
}

impl Checks {
    /// Checks one row of the slot table.
    pub fn row(
        &self,
        plan: &Plan,
        entry: &Entry,
        iteration: usize,
        slots: &[u32],
        inputs: &[Slice],
        outputs: &[Slice],
    ) -> Result<(), RunError> {
        let too_far = |slot: Slot, max: usize, reason: String| RunError::Slot {
            slot: plan.slots[slot.0 as usize].clone(),
            value: slots[slot.0 as usize],
            max,
            iteration,
            reason,
        };
        for &id in &self.extents {
            let extent = &plan.extents[id.0 as usize];
            let value = |slot: Slot| slots[slot.0 as usize];
            for slot in extent.lo.into_iter().chain([extent.hi]) {
                if value(slot) as usize > extent.max {
                    return Err(too_far(slot, extent.max, format!("the size of '{}'", extent.name)));
                }
            }
            if let Some(lo) = extent.lo.filter(|lo| value(*lo) > value(extent.hi)) {
                let (lo, hi) = (value(lo), value(extent.hi));
                return Err(RunError::Reversed { extent: extent.name.clone(), lo, hi, iteration });
            }
        }
        for check in &self.moving {
            let mut least = check.offset as u128;
            let mut empty = false;
            for &(size, extent, stride) in &check.axes {
                let live = extent.map_or(0..size, |id| plan.extents[id.0 as usize].range(slots));
                empty |= live.is_empty();
                least += live.end.saturating_sub(1) as u128 * stride as u128;
            }
            if empty {
                continue;
            }
            let picked =
                |&(slot, elements): &(Slot, usize)| u128::from(slots[slot.0 as usize]) * elements as u128;
            let end = least + 1 + check.picks.iter().map(picked).sum::<u128>();
            let len = match check.bound {
                Bound::Fixed(len) => len,
                Bound::Input(i) => inputs[i as usize].len,
                Bound::Output(i) => outputs[i as usize].len,
            };
            if end <= len as u128 {
                continue;
            }
            // The pick that leads outside; without one, the caller's slice is too short.
            let room = |pick: &(Slot, usize)| {
                (len as u128).checked_sub(end - picked(pick)).map_or(0, |room| room / pick.1.max(1) as u128)
            };
            let guilty = check.picks.iter().find(|pick| u128::from(slots[pick.0.0 as usize]) > room(pick));
            let (kind, port) = match (guilty, check.bound) {
                (Some(pick), _) => return Err(too_far(pick.0, room(pick) as usize, check.what.clone())),
                (None, Bound::Output(i)) => ("output", &entry.outputs[i as usize]),
                (None, Bound::Input(i)) => ("input", &entry.inputs[i as usize]),
                (None, Bound::Fixed(_)) => {
                    let slot = check.picks.first().map_or(Slot(0), |pick| pick.0);
                    return Err(too_far(slot, 0, check.what.clone()));
                }
            };
            let (name, most) = (port.name.clone(), port_len(Some(port)));
            let least = usize::try_from(end).unwrap_or(usize::MAX);
            return Err(RunError::PortLength { kind, name, found: len, least, most });
        }
        for check in &self.positions {
            let live = check.extent.map_or(0..check.rows, |id| plan.extents[id.0 as usize].range(slots));
            let offset = check.offset.map_or(0, |slot| slots[slot.0 as usize] as usize);
            if !live.is_empty() && offset.saturating_add(live.end) > check.table {
                let max = check.table.saturating_sub(live.end);
                let slot = check.offset.or(check.extent.map(|id| plan.extents[id.0 as usize].hi));
                let max = if check.offset.is_some() { max } else { check.table };
                let reason = format!("rows of the rotary table of {}", check.what);
                return Err(too_far(slot.unwrap_or(Slot(0)), max, reason));
            }
        }
        Ok(())
    }
}
