//! Exchanges between the lanes of a warp.

use super::view::{Plane, each_lane};
use super::warp::{Warp, lanes};
use super::{Cx, Flow};
use crate::check::FindingKind;
use crate::ir::{Instruction, Op, Redux, ShflMode, VoteMode, Width};

/// Runs a warp-wide exchange for the lanes of `m`.
pub fn run(cx: &mut Cx, w: &mut Warp, constants: &[Plane], i: &Instruction, m: u32) -> Flow {
    let mask_slot = match i.op {
        Op::Shfl(_) => Some(i.s[3]),
        Op::Vote(_) | Op::Elect => Some(i.s[0]),
        Op::MatchAny(_) | Op::MatchAll(_) | Op::Redux(_) => Some(i.s[1]),
        _ => None,
    };
    let members = match mask_slot {
        Some(slot) => w.view(constants).read32(slot),
        None => [m; 32],
    };
    for l in lanes(m) {
        if members[l] >> l & 1 == 0 {
            cx.report(w, i, l as u32, FindingKind::Shuffle, None, || {
                format!("the member mask {:#010x} lacks the lane that executes", members[l])
            });
        }
    }
    // Lanes with one mask form one exchange; partitions of a warp may use several at once.
    let mut v = w.view(constants);
    match i.op {
        Op::ActiveMask => v.write32(i.d[0], m, &[m; 32]),
        Op::Shfl(mode) => {
            let (a, b, c) = (v.read32(i.s[0]), v.read32(i.s[1]), v.read32(i.s[2]));
            let (mut out, mut valid) = ([0; 32], 0u32);
            let mut absent = None;
            for l in lanes(m) {
                let (from, inside) = source(mode, l as u32, b[l], c[l]);
                let from = from as usize & 31;
                out[l] = a[from];
                valid |= u32::from(inside) << l;
                if m >> from & 1 == 0 || members[l] >> from & 1 == 0 {
                    absent = Some((l, from));
                }
            }
            v.write32(i.d[0], m, &out);
            v.write_pred(i.p[0], m, valid);
            // A value that is not there may never be used: then the registers remember (see `undefined`).
            let remembered = i.watched && w.undefined.watching();
            if let Some((l, from)) = absent.filter(|_| !remembered) {
                cx.report(w, i, l as u32, FindingKind::Shuffle, None, || {
                    format!("reads lane {from}, which does not take part")
                });
            }
        }
        Op::Vote(mode) => {
            let p = v.pred(i.p[2]);
            let (mut bits, mut ballots) = (0u32, [0; 32]);
            for l in lanes(m) {
                let with = members[l] & m;
                let yes = p & with;
                ballots[l] = yes;
                let result = match mode {
                    VoteMode::All => yes == with,
                    VoteMode::Any => yes != 0,
                    _ => yes == with || yes == 0,
                };
                bits |= u32::from(result) << l;
            }
            if mode == VoteMode::Ballot {
                v.write32(i.d[0], m, &ballots);
            } else {
                v.write_pred(i.p[0], m, bits);
            }
        }
        Op::MatchAny(width) | Op::MatchAll(width) => {
            let a =
                if width == Width::W64 { v.read64(i.s[0]) } else { each_lane(&v.read32(i.s[0]), u64::from) };
            let all = matches!(i.op, Op::MatchAll(_));
            let (mut out, mut agree) = ([0; 32], 0u32);
            for l in lanes(m) {
                let with = members[l] & m;
                let same = lanes(with).filter(|&k| a[k] == a[l]).fold(0u32, |all, k| all | 1 << k);
                let every = same == with;
                agree |= u32::from(every) << l;
                out[l] = if all && !every { 0 } else { same };
            }
            v.write32(i.d[0], m, &out);
            v.write_pred(i.p[0], m, agree);
        }
        Op::Redux(op) => {
            let a = v.read32(i.s[0]);
            let mut out = [0; 32];
            for l in lanes(m) {
                let mut all = lanes(members[l] & m).map(|k| a[k]);
                let first = all.next().unwrap_or(0);
                out[l] = all.fold(first, |x, y| match op {
                    Redux::Add => x.wrapping_add(y),
                    Redux::MinU => x.min(y),
                    Redux::MinS => (x as i32).min(y as i32) as u32,
                    Redux::MaxU => x.max(y),
                    Redux::MaxS => (x as i32).max(y as i32) as u32,
                    Redux::And => x & y,
                    Redux::Or => x | y,
                    Redux::Xor => x ^ y,
                });
            }
            v.write32(i.d[0], m, &out);
        }
        _ => {
            // elect.sync: the lowest member leads (the manual leaves the choice open, but fixed).
            let (mut leader, mut elected) = ([0; 32], 0u32);
            for l in lanes(m) {
                leader[l] = (members[l] & m).trailing_zeros();
                elected |= u32::from(leader[l] == l as u32) << l;
            }
            v.write32(i.d[0], m, &leader);
            v.write_pred(i.p[0], m, elected);
        }
    }
    Flow::Next
}

/// The lane that lane `l` reads, and whether it is inside the segment (PTX ISA, "shfl.sync").
pub fn source(mode: ShflMode, l: u32, b: u32, c: u32) -> (u32, bool) {
    let (b, clamp, segment) = (b & 31, c & 31, c >> 8 & 31);
    let max = (l & segment) | (clamp & !segment);
    let min = l & segment;
    let (j, inside) = match mode {
        ShflMode::Up => {
            let j = l.wrapping_sub(b) as i32;
            (j as u32, j >= max as i32)
        }
        ShflMode::Down => (l + b, l + b <= max),
        ShflMode::Bfly => (l ^ b, l ^ b <= max),
        ShflMode::Idx => {
            let j = min | (b & !segment);
            (j, j <= max)
        }
    };
    (if inside { j } else { l }, inside)
}
