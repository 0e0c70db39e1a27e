//! The printed form of a plan: one row a step, so that a change of the compiler shows as a diff.

use crate::{Activation, Entry, Extent, Kernel, Operand, Place, Plan, Stage, Step};
use std::fmt;

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "plan {} for {}", self.name, self.target)?;
        if !self.slots.is_empty() {
            writeln!(f, "slots      {}", self.slots.join(", "))?;
        }
        for extent in &self.extents {
            writeln!(f, "extent     {} up to {}, {}", range(extent, self), extent.max, extent.stage)?;
        }
        for stage in [Stage::Step, Stage::Request, Stage::Bind] {
            let of_stage = self.weights.iter().filter(|weight| weight.last_stage == stage);
            let (mut count, mut elements) = (0usize, 0usize);
            for weight in of_stage {
                count += 1;
                elements += weight.shape.iter().product::<usize>();
            }
            if count > 0 {
                let kept = match stage {
                    Stage::Step => "packed",
                    Stage::Request => "read once a run",
                    Stage::Bind => "let go after bind",
                };
                writeln!(f, "weights    {count} of stage {stage}, {} elements, {kept}", grouped(elements))?;
            }
        }
        writeln!(f, "constants  {} bytes", grouped(self.constant_bytes))?;
        writeln!(
            f,
            "session    {} bytes (state {}, request {}, scratch {}, workspace {}); lower bound {}",
            grouped(self.session_bytes()),
            grouped(self.state_bytes),
            grouped(self.request_bytes),
            grouped(self.scratch_bytes),
            grouped(self.workspace_bytes),
            grouped(self.session_lower_bound()),
        )?;
        if !self.bind.is_empty() {
            writeln!(f, "\nbind: scratch {} bytes", grouped(self.bind_scratch_bytes))?;
            table(f, &self.bind, self, None)?;
        }
        for entry in &self.entries {
            entry_table(f, entry, self)?;
        }
        Ok(())
    }
}

fn entry_table(f: &mut fmt::Formatter<'_>, entry: &Entry, plan: &Plan) -> fmt::Result {
    writeln!(
        f,
        "\nentry {}: scratch {} bytes, lower bound {}, request values {} bytes",
        entry.name,
        grouped(entry.scratch_bytes),
        grouped(entry.scratch_lower_bound),
        grouped(entry.request_bytes)
    )?;
    for (what, ports) in [("input ", &entry.inputs), ("output", &entry.outputs)] {
        for port in ports {
            writeln!(f, "  {what} {} {} {}", port.name, port.dtype, axes(&port.axes, &plan.extents))?;
        }
    }
    for (what, steps) in [("request", &entry.request), ("step", &entry.step)] {
        if !steps.is_empty() {
            let flop: u64 = steps.iter().map(|step| step.flop).sum();
            let bytes: u64 = steps.iter().map(|step| step.bytes).sum();
            writeln!(f, "  {what}: {} kernels, {} FLOP, {} bytes", steps.len(), si(flop), si(bytes))?;
            table(f, steps, plan, Some(entry))?;
        }
    }
    Ok(())
}

fn table(f: &mut fmt::Formatter<'_>, steps: &[Step], plan: &Plan, entry: Option<&Entry>) -> fmt::Result {
    for (index, step) in steps.iter().enumerate() {
        write!(f, "  {index:4} {:<22} {:>8} {:>8}  ", label(&step.kernel), si(step.flop), si(step.bytes))?;
        let operands = step.kernel.operands();
        for (i, (operand, role, access)) in operands.iter().enumerate() {
            let arrow = match access {
                crate::Access::Write if i > 0 && operands[i - 1].2 == crate::Access::Read => "-> ",
                _ => "",
            };
            write!(f, "{arrow}{role}={} ", operand_text(operand, plan, entry))?;
        }
        writeln!(f, " {}", step.scope)?;
    }
    Ok(())
}

/// The kernel's name with what has been fused into it.
fn label(kernel: &Kernel<Operand>) -> String {
    let act = |act: &Activation| match act {
        Activation::Identity => String::new(),
        other => format!("+{other:?}").to_lowercase(),
    };
    let mut label = kernel.name().to_string();
    match kernel {
        Kernel::Linear { act: a, gate, residual, .. } => {
            label += &act(a);
            label += if gate.is_some() { "*gate" } else { "" };
            label += if residual.is_some() { "+res" } else { "" };
        }
        Kernel::Conv2d { act: a, residual, upsample, stride, .. } => {
            label += if *upsample { " up2" } else { "" };
            label += &if *stride > 1 { format!(" /{stride}") } else { String::new() };
            label += &act(a);
            label += if residual.is_some() { "+res" } else { "" };
        }
        Kernel::GroupNorm { act: a, .. } => label += &act(a),
        Kernel::Map { act: a, b, .. } => {
            label += &b.as_ref().map_or(String::new(), |(op, _)| format!(" {op:?}").to_lowercase());
            label += &act(a);
        }
        Kernel::Norm { shift, .. } => label += if shift.is_some() { "+modulate" } else { "" },
        _ => {}
    }
    label
}

fn operand_text(operand: &Operand, plan: &Plan, entry: Option<&Entry>) -> String {
    let port = |ports: Option<&Vec<crate::Port>>, i: u32| {
        ports.and_then(|p| p.get(i as usize)).map_or("?".into(), |p| p.name.clone())
    };
    let place = match operand.place {
        Place::Weight(i) => plan.weights.get(i as usize).map_or("?".into(), |w| w.name.clone()),
        Place::Constants => "const".into(),
        Place::State => "state".into(),
        Place::Request => "request".into(),
        Place::Scratch => "scratch".into(),
        Place::Input(i) => port(entry.map(|e| &e.inputs), i),
        Place::Output(i) => port(entry.map(|e| &e.outputs), i),
    };
    let mut text = place;
    let whole = matches!(operand.place, Place::Weight(_) | Place::Input(_) | Place::Output(_));
    if operand.offset > 0 || !whole {
        text += &format!("@{}", operand.offset);
    }
    for (slot, elements) in &operand.picks {
        let name = plan.slots.get(slot.0 as usize).map_or("?", String::as_str);
        text += &format!("+{name}*{elements}");
    }
    text + &axes(&operand.axes, &plan.extents)
}

/// Sizes, with a live range by name, and strides where the view is not row-major.
fn axes(axes: &[crate::Axis], extents: &[Extent]) -> String {
    let sizes: Vec<String> = axes
        .iter()
        .map(|axis| match axis.extent {
            Some(e) => format!("{}~{}", axis.size, extents.get(e.0 as usize).map_or("?", |e| &e.name)),
            None => axis.size.to_string(),
        })
        .collect();
    let mut expected = 1isize;
    let mut plain = true;
    for axis in axes.iter().rev() {
        plain &= axis.size == 1 || axis.stride == expected;
        expected *= axis.size as isize;
    }
    let mut text = format!("[{}]", sizes.join(","));
    if !plain {
        let strides: Vec<String> = axes.iter().map(|axis| axis.stride.to_string()).collect();
        text += &format!("/{}", strides.join(","));
    }
    text
}

fn range(extent: &Extent, plan: &Plan) -> String {
    let slot = |s: crate::Slot| plan.slots.get(s.0 as usize).map_or("?", String::as_str);
    format!("{} = [{}, {})", extent.name, extent.lo.map_or("0", slot), slot(extent.hi))
}

/// Digits in groups of three.
fn grouped(n: usize) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push('_');
        }
        text.push(digit);
    }
    text
}

/// Three figures and a unit.
fn si(n: u64) -> String {
    let (mut value, mut unit) = (n as f64, "");
    for next in ["k", "M", "G", "T"] {
        if value < 1000.0 {
            break;
        }
        (value, unit) = (value / 1000.0, next);
    }
    if unit.is_empty() { format!("{n}") } else { format!("{value:.3}{unit}") }
}
