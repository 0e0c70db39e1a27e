//! What a session of each network takes: peak bytes beside what no placement can go below, and each buffer's life.

use crate::output::{bytes, grouped};
use crate::table::Table;
use selftok_graph::{Buffer, Place, Plan, Stage};
use serde_json::{Value, json};

/// For people.
pub fn text(plans: &[Plan]) -> String {
    let mut total = Table::new(
        "lr",
        [
            "network",
            "peak",
            "lower bound",
            "over it",
            "state",
            "request",
            "scratch",
            "workspace",
            "constants",
            "weights",
        ],
    );
    for plan in plans {
        let (peak, bound) = (plan.session_bytes(), plan.session_lower_bound());
        total.row([
            plan.name.clone(),
            bytes(peak),
            bytes(bound),
            format!("{:.1} %", excess(plan) * 100.0),
            bytes(plan.state_bytes),
            bytes(plan.request_bytes),
            bytes(plan.scratch_bytes),
            bytes(plan.workspace_bytes),
            bytes(plan.constant_bytes),
            format!("{} elements", grouped(resident_elements(plan))),
        ]);
    }
    let mut text = format!(
        "Peak bytes of a session, beside the lower bound (the largest set of values alive at once). Constants and the\n\
         weights that runs read are shared by all sessions.\n\n{total}"
    );
    for plan in plans {
        for entry in &plan.entries {
            let what = if entry.name == plan.name {
                entry.name.clone()
            } else {
                format!("{}, {}", plan.name, entry.name)
            };
            let mut table =
                Table::new("lrrrrl", ["region", "offset", "bytes", "first kernel", "last kernel", "made by"]);
            for buffer in &entry.buffers {
                table.row([
                    region(buffer).to_owned(),
                    grouped(buffer.offset),
                    grouped(buffer.bytes),
                    buffer.live.0.to_string(),
                    buffer.live.1.to_string(),
                    buffer.scope.clone(),
                ]);
            }
            text += &format!(
                "\n{what}: {} kernels, {} buffers; scratch {} bytes, lower bound {}\n{table}",
                entry.request.len() + entry.step.len(),
                entry.buffers.len(),
                grouped(entry.scratch_bytes),
                grouped(entry.scratch_lower_bound),
            );
        }
    }
    text
}

/// For machines.
pub fn json(plans: &[Plan]) -> Value {
    let plan = |plan: &Plan| {
        let entries: Vec<Value> = plan
            .entries
            .iter()
            .map(|entry| {
                let buffers: Vec<Value> = entry
                    .buffers
                    .iter()
                    .map(|b| {
                        json!({
                            "region": region(b), "offset": b.offset, "bytes": b.bytes,
                            "live": [b.live.0, b.live.1], "scope": b.scope
                        })
                    })
                    .collect();
                json!({
                    "entry": entry.name, "scratch_bytes": entry.scratch_bytes,
                    "scratch_lower_bound": entry.scratch_lower_bound, "buffers": buffers
                })
            })
            .collect();
        json!({
            "network": plan.name,
            "peak_bytes": plan.session_bytes(),
            "lower_bound": plan.session_lower_bound(),
            "state_bytes": plan.state_bytes,
            "request_bytes": plan.request_bytes,
            "scratch_bytes": plan.scratch_bytes,
            "workspace_bytes": plan.workspace_bytes,
            "constant_bytes": plan.constant_bytes,
            "resident_weight_elements": resident_elements(plan),
            "entries": entries,
        })
    };
    plans.iter().map(plan).collect()
}

/// By how much the peak is over the lower bound, as a fraction of it.
fn excess(plan: &Plan) -> f64 {
    let bound = plan.session_lower_bound().max(1) as f64;
    plan.session_bytes() as f64 / bound - 1.0
}

/// Elements of the weights that stay after bind.
fn resident_elements(plan: &Plan) -> usize {
    let stay = plan.weights.iter().filter(|weight| weight.last_stage != Stage::Bind);
    stay.map(|weight| weight.shape.iter().product::<usize>()).sum()
}

fn region(buffer: &Buffer) -> &'static str {
    match buffer.place {
        Place::Weight(_) => "weight",
        Place::Constants => "constants",
        Place::State => "state",
        Place::Request => "request",
        Place::Scratch => "scratch",
        Place::Input(_) => "input",
        Place::Output(_) => "output",
    }
}
