//! The nearest codes, with both kernels in a CUDA graph.

use selftok_kernels_cuda::codebook::{MergeArguments, PartialArguments, Shape, launch};
use selftok_kernels_cuda::device::DeviceError;

use super::host::{Host, address};
use super::random::{F32_ROUNDING, Random};
use super::{Judged, Proof, Size};

const EPS: f32 = 1e-12;

pub fn prove(host: &Host, size: Size, repeat: usize) -> Result<Vec<Proof>, DeviceError> {
    let mut cases = vec![(70, 330, 16)];
    if size >= Size::Small {
        cases.extend([(33, 130, 7), (65, 2000, 31), (3, 200, 64), (1, 1, 20)]);
    }
    if size == Size::Large {
        cases.push((512, 32768, 16));
    }
    cases.into_iter().map(|case| one(host, case, repeat)).collect()
}

fn one(
    host: &Host,
    (rows, count, width): (usize, usize, usize),
    repeat: usize,
) -> Result<Proof, DeviceError> {
    let mut random = Random::new((rows * count) as u64);
    let (x, codes) = (random.floats(rows * width), random.floats(count * width));
    let launches = launch(
        &Shape { rows: rows as u64, codes: count as u64, width: width as u64 },
        host.kernels.limits(),
    )?;
    // A capture can compile nothing.
    host.kernels.function(launches.partial.entry)?;
    host.kernels.function(launches.merge.entry)?;

    let (x_on, codes_on) = (host.upload(&x)?, host.upload(&codes)?);
    let candidates = host.room::<u32>(launches.workspace_bytes as usize / 4)?;
    let (index, margin) = (host.room::<i32>(rows)?, host.room::<f32>(rows)?);
    let partial = PartialArguments {
        x: address(Some(&x_on)),
        codes: address(Some(&codes_on)),
        candidates: address(Some(&candidates)),
        rows: rows as i32,
        c: width as i32,
        v: count as i32,
        x_stride: width as i64,
        slice_codes: launches.slice_codes as i32,
        eps: EPS,
    };
    let merge = MergeArguments {
        candidates: partial.candidates,
        index: address(Some(&index)),
        margin: address(Some(&margin)),
        rows: rows as i32,
        slices: launches.slices as i32,
    };
    let marks = host.replay(repeat, |stream| {
        // SAFETY: the slices are as large as the counts say, and live until the downloads.
        unsafe { host.kernels.codebook(stream, &launches, &partial, &merge) }
    })?;
    let (index, margin) = (host.download(&index)?, host.download(&margin)?);

    let milliseconds = marks.best()?;
    let mut judged = Judged::default();
    for (r, row) in x.chunks(width).enumerate() {
        let norm = row.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>().sqrt().max(EPS.into());
        let score = |code: &[f32]| {
            let terms = row.iter().zip(code).map(|(&a, &b)| f64::from(a) / norm * f64::from(b));
            terms.fold((0.0, 0.0_f64), |(s, t), x| (s + x, t + x.abs()))
        };
        let scores: Vec<(f64, f64)> = codes.chunks(width).map(score).collect();
        let mut order: Vec<usize> = (0..count).collect();
        order.sort_by(|&a, &b| scores[b].0.total_cmp(&scores[a].0));
        let best = scores[order[0]].0;
        // Scores are f32 sums: two that are closer than their roundings may change places.
        let magnitude = scores.iter().fold(0.0_f64, |m, s| m.max(s.1));
        let tolerance = F32_ROUNDING * magnitude * (width as f64 + 4.0);
        match usize::try_from(index[r]).ok().and_then(|k| scores.get(k)) {
            Some(chosen) => {
                judged.compare(chosen.0, best, tolerance, || format!("row {r}: code {}", index[r]))
            }
            None => judged.fail(|| format!("row {r}: there is no code {}", index[r])),
        }
        if let Some(&second) = order.get(1) {
            let exact = best - scores[second].0;
            judged.compare(margin[r].into(), exact, 2.0 * tolerance, || format!("row {r}: margin"));
        }
    }
    let kernels = format!("{} {}", launches.partial.entry, launches.merge.entry);
    let shape = format!("{rows} rows, {count} codes of {width}, {} slices", launches.slices);
    Ok(Proof { kernels, shape, judged, milliseconds, flop: (2 * rows * count * width) as f64 })
}
