//! Share: what entries compute from weights alone is computed once for all of them.
//!
//! Kernels of stage bind leave the entries for one common list. Two kernels that do the same to the same
//! weights become one, so that prefill and decode, or velocity and render, share their tables.

use super::lower::{Lowered, LoweredStep, Root, RootKind, View};
use crate::{Access, Kernel, Stage, Target};
use std::collections::HashMap;

/// The common list of kernels that run at bind.
#[derive(Debug, Default)]
pub struct Bind {
    /// Stored values of stage bind.
    pub roots: Vec<Root>,
    /// Kernels, in order; their views name roots of this list, or weights by [`RootKind::Weight`] roots here.
    pub steps: Vec<LoweredStep>,
    /// Roots that a request or step reads.
    pub kept: Vec<bool>,
}

/// Moves kernels of stage bind out of the entries. Views of the entries' remaining kernels that read such a
/// value name a root of kind [`RootKind::Bound`].
pub fn share_bind(entries: &mut [Lowered], target: &Target) -> Bind {
    let mut bind = Bind::default();
    let mut known: HashMap<String, Vec<usize>> = HashMap::new();
    for (number, entry) in entries.iter_mut().enumerate() {
        let mut global: HashMap<usize, usize> = HashMap::new();
        let mut rest = Vec::with_capacity(entry.kernels.len());
        for step in std::mem::take(&mut entry.kernels) {
            if step.stage != Stage::Bind {
                rest.push(step);
                continue;
            }
            for (view, _, access) in step.kernel.operands() {
                if access == Access::Read {
                    source(&mut bind, &mut known, &mut global, &entry.roots[view.root]);
                }
            }
            // A kernel's key is what it does to what; where it writes is what we look for.
            let written: Vec<View> = writes(&step.kernel).into_iter().cloned().collect();
            let key = format!(
                "{:?}",
                step.kernel.map(|view, _, access| {
                    let root = if access == Access::Write { usize::MAX } else { global[&view.root] };
                    Ok::<_, std::convert::Infallible>(View { root, ..view.clone() })
                })
            );
            // Parts of a larger value are not shared: their siblings may differ.
            let whole = written.iter().all(|v| {
                !global.contains_key(&v.root)
                    && v.axes.iter().map(|a| a.size).product::<usize>() == entry.roots[v.root].elements
            });
            let share = whole && target.on("bind.share");
            if let Some(roots) = known.get(&key).filter(|_| share) {
                for (view, &root) in written.iter().zip(roots) {
                    global.insert(view.root, root);
                }
                continue;
            }
            for view in &written {
                global.entry(view.root).or_insert_with(|| add(&mut bind, &entry.roots[view.root]));
            }
            let Ok(kernel) = step.kernel.map(|view, _, _| {
                Ok::<_, std::convert::Infallible>(View { root: global[&view.root], ..view.clone() })
            });
            if share {
                known.insert(key, written.iter().map(|view| global[&view.root]).collect());
            }
            let scope = if number == 0 { step.scope } else { format!("{}: {}", entry.name, step.scope) };
            bind.steps.push(LoweredStep { kernel, stage: Stage::Bind, scope });
        }
        for step in &rest {
            for (view, _, _) in step.kernel.operands() {
                let root = &mut entry.roots[view.root];
                if let RootKind::Literal(_) = root.kind {
                    source(&mut bind, &mut known, &mut global, root);
                }
                if let Some(&index) = global.get(&view.root)
                    && !matches!(root.kind, RootKind::Weight { .. })
                {
                    root.kind = RootKind::Bound(index);
                    bind.kept[index] = true;
                }
            }
        }
        entry.kernels = rest;
    }
    bind
}

fn writes(kernel: &Kernel<View>) -> Vec<&View> {
    kernel
        .operands()
        .into_iter()
        .filter(|(_, _, access)| *access == Access::Write)
        .map(|(v, _, _)| v)
        .collect()
}

fn add(bind: &mut Bind, root: &Root) -> usize {
    bind.roots.push(Root { id: bind.roots.len(), ..root.clone() });
    bind.kept.push(matches!(root.kind, RootKind::Literal(_)));
    bind.roots.len() - 1
}

/// The common root of a weight or literal, by name or content.
fn source(
    bind: &mut Bind,
    known: &mut HashMap<String, Vec<usize>>,
    global: &mut HashMap<usize, usize>,
    root: &Root,
) {
    let key = match &root.kind {
        RootKind::Weight { index, .. } => format!("weight {index}"),
        RootKind::Literal(data) => {
            let bits: Vec<u32> = data.iter().map(|x| x.to_bits()).collect();
            format!("literal {bits:x?}")
        }
        _ => return,
    };
    let index = match known.get(&key) {
        Some(roots) => roots[0],
        None => {
            let index = add(bind, root);
            known.insert(key, vec![index]);
            index
        }
    };
    global.insert(root.id, index);
}
