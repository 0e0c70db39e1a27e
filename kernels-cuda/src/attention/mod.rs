//! Launch rule of flash attention: the narrowest head that holds `head_dim`, and 64 or 128 queries a block.

use crate::arguments;
use crate::launch::{dimension, multiple, room};
use crate::{DevicePointer, Entry, Family, GpuLimits, KIB, Launch, LaunchError};

/// The family.
pub const FAMILY: Family = Family {
    name: "attention",
    source: include_str!("kernel.cu"),
    fmad: true,
    entries: &[
        entry("attention_d32_q64", 112, 32),
        entry("attention_d64_q64", 144, 64),
        entry("attention_d64_q128", 255, 64),
        entry("attention_d96_q64", 192, 96),
        entry("attention_d128_q64", 240, 128),
    ],
};

const fn entry(name: &'static str, max_registers: u32, head: u32) -> Entry {
    Entry { name, threads: 128, max_registers, max_static_shared: 0, dynamic_shared: head * KIB / 2 }
}

arguments! {
    /// The arguments of every `attention` kernel. Strides are in elements and multiples of 8, pointers 16-byte aligned.
    Arguments of "attention_" {
        /// Queries `[batch, heads, q_len, head_dim]` bf16.
        q: DevicePointer,
        /// Keys of the first segment `[batch, kv_heads, kv_len0, head_dim]` bf16.
        k0: DevicePointer,
        /// Its values, with the same strides.
        v0: DevicePointer,
        /// Keys of the second segment, not read when `kv_len1` is 0.
        k1: DevicePointer,
        /// Its values.
        v1: DevicePointer,
        /// `[batch, heads, q_len, head_dim]` bf16.
        out: DevicePointer,
        /// Queries.
        q_len: i32,
        /// Keys of the first segment.
        kv_len0: i32,
        /// Keys of the second.
        kv_len1: i32,
        /// Width of a head.
        head_dim: i32,
        /// Query heads to a key head.
        head_group: i32,
        /// Between sequences of `q`.
        q_batch: i64,
        /// Between heads of `q`.
        q_head: i64,
        /// Between queries.
        q_row: i64,
        /// Between sequences of `k0`.
        kv0_batch: i64,
        /// Between heads of `k0`.
        kv0_head: i64,
        /// Between keys of `k0`.
        kv0_row: i64,
        /// Between sequences of `k1`.
        kv1_batch: i64,
        /// Between heads of `k1`.
        kv1_head: i64,
        /// Between keys of `k1`.
        kv1_row: i64,
        /// Between sequences of `out`.
        out_batch: i64,
        /// Between heads of `out`.
        out_head: i64,
        /// Between rows of `out`.
        out_row: i64,
        /// 1: query `i` sees keys up to position `q_position + i`.
        causal: i32,
        /// Position of the first query among the keys of both segments.
        q_position: i32,
        /// Factor of the scores, above 0.
        scale: f32,
    }
}

/// A kernel of the family.
struct Instance {
    name: &'static str,
    /// The widest head.
    width: u64,
    /// Queries of a block.
    queries: u64,
    /// Clocks of an SM for 64 keys, by the unit that is busiest beside the tensor cores: shared memory or issue, as
    /// the build tool's `report` models them from the SASS.
    other_clocks: u64,
}

const INSTANCES: [Instance; 5] = [
    Instance { name: "attention_d32_q64", width: 32, queries: 64, other_clocks: 625 },
    Instance { name: "attention_d64_q64", width: 64, queries: 64, other_clocks: 735 },
    Instance { name: "attention_d64_q128", width: 64, queries: 128, other_clocks: 1136 },
    Instance { name: "attention_d96_q64", width: 96, queries: 64, other_clocks: 960 },
    Instance { name: "attention_d128_q64", width: 128, queries: 64, other_clocks: 1280 },
];

/// Attention of `q [batch, heads, q_len, head_dim]` over keys and values of any length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Sequences.
    pub batch: u64,
    /// Query heads.
    pub heads: u64,
    /// Key and value heads, a divisor of `heads`.
    pub kv_heads: u64,
    /// Queries of a sequence.
    pub q_len: u64,
    /// Width of a head.
    pub head_dim: u64,
}

/// Chooses kernel and grid. The kernel's arguments are in the head of `kernel.cu`.
///
/// # Errors
/// An empty or uncountable dimension, `head_dim` above 128 or no multiple of 8, `heads` no multiple of `kv_heads`, or a
/// GPU with too little shared memory.
pub fn launch(shape: &Shape, limits: &GpuLimits) -> Result<Launch, LaunchError> {
    let batch = dimension(FAMILY.name, "batch", shape.batch, 65535)?;
    let heads = dimension(FAMILY.name, "heads", shape.heads, 65535)?;
    let kv_heads = dimension(FAMILY.name, "kv_heads", shape.kv_heads, heads)?;
    let q_len = dimension(FAMILY.name, "q_len", shape.q_len, i32::MAX as u64 - 128)?;
    let head_dim = dimension(FAMILY.name, "head_dim", shape.head_dim, 128)?;
    multiple(FAMILY.name, "head_dim", head_dim, 8)?;
    multiple(FAMILY.name, "heads", heads, kv_heads)?;

    let width = INSTANCES.iter().map(|i| i.width).find(|&w| w >= head_dim).unwrap_or(128);
    // The larger block does more for each key it reads, the smaller wastes less of a last wave.
    let modelled_clocks = |i: &Instance| {
        let waves = (q_len.div_ceil(i.queries) * heads * batch).div_ceil(u64::from(limits.sms));
        let tensor = 2 * i.queries * 64 * i.width / u64::from(limits.mma_per_clock);
        waves * tensor.max(i.other_clocks)
    };
    let of_width = INSTANCES.iter().filter(|i| i.width == width);
    let instance = of_width.min_by_key(|i| modelled_clocks(i)).unwrap_or(&INSTANCES[4]);
    let (entry, queries) = (instance.name, instance.queries);

    let shared_bytes = FAMILY.entry(entry).map_or(0, |e| e.dynamic_shared);
    room(FAMILY.name, shared_bytes, limits)?;
    let grid = [q_len.div_ceil(queries) as u32, heads as u32, batch as u32];
    Ok(Launch { entry, grid, block: [128, 1, 1], shared_bytes })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{A100, MODELLED_GPUS};

    fn shape(q_len: u64, head_dim: u64) -> Shape {
        Shape { batch: 1, heads: 24, kv_heads: 24, q_len, head_dim }
    }

    #[test]
    fn a_batch_of_selftoks_joint_attention_takes_128_queries_a_block() {
        let launch = launch(&Shape { batch: 4, ..shape(768, 64) }, &A100).unwrap();
        assert_eq!((launch.entry, launch.grid), ("attention_d64_q128", [6, 24, 4]));
        assert_eq!(launch.shared_bytes, 32 * KIB);
    }

    #[test]
    fn one_picture_takes_the_smaller_block_for_its_last_wave() {
        // 288 blocks are 3 waves of 735 clocks; 144 would be 2 of 1136.
        let launch = launch(&shape(768, 64), &A100).unwrap();
        assert_eq!((launch.entry, launch.grid), ("attention_d64_q64", [12, 24, 1]));
    }

    #[test]
    fn few_queries_take_the_smaller_block() {
        let launch = launch(&shape(64, 64), &A100).unwrap();
        assert_eq!((launch.entry, launch.grid), ("attention_d64_q64", [1, 24, 1]));
    }

    #[test]
    fn a_head_takes_the_narrowest_instance_that_holds_it() {
        for gpu in MODELLED_GPUS {
            for (head_dim, entry) in [
                (8, "attention_d32_q64"),
                (72, "attention_d96_q64"),
                (80, "attention_d96_q64"),
                (128, "attention_d128_q64"),
            ] {
                assert_eq!(launch(&shape(300, head_dim), gpu).unwrap().entry, entry);
            }
        }
    }

    #[test]
    fn what_the_kernel_cannot_read_is_refused() {
        assert_eq!(
            launch(&shape(64, 36), &A100).unwrap_err().to_string(),
            "attention: head_dim is 36; it must be a multiple of 8"
        );
        assert!(matches!(launch(&shape(64, 160), &A100), Err(LaunchError::TooLarge { .. })));
        let grouped = Shape { kv_heads: 5, ..shape(64, 64) };
        assert!(matches!(launch(&grouped, &A100), Err(LaunchError::Misaligned { argument: "heads", .. })));
    }
}
