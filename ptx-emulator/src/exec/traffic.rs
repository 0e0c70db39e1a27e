//! What the addresses of a warp instruction cost: passes over the banks of shared memory, sectors of device memory.
//!
//! Most instructions are regular, and a look at the addresses tells so; the rest are counted word by word.

use super::warp::lanes;

/// Wavefronts that an access needs, and the fewest that could move its distinct words.
///
/// Wide accesses are served a half or a quarter of the warp at a time; within a pass, a bank gives one word.
pub fn wavefronts(addresses: &[u64; 32], bytes: u32, m: u32) -> (u32, u32) {
    if m == u32::MAX && matches!(bytes, 4 | 8 | 16) && every_bank_once(addresses, bytes) {
        return (bytes / 4, bytes / 4);
    }
    let words = bytes.div_ceil(4) as usize;
    let group = 32 / words.max(1);
    let (mut total, mut distinct) = (0, 0);
    for start in (0..32).step_by(group) {
        let part = m & ((((1u64 << group) - 1) as u32) << start);
        if part == 0 {
            continue;
        }
        let n = match without_conflict(addresses, words, part) {
            Some(n) => {
                total += 1;
                n
            }
            None => {
                let (depth, n) = conflicts(addresses, words, part);
                total += depth;
                n
            }
        };
        distinct += n;
    }
    (total, distinct.div_ceil(32))
}

/// Whether in each pass every bank gives one word, as it does in well laid out code.
#[inline]
fn every_bank_once(addresses: &[u64; 32], bytes: u32) -> bool {
    let (passes, shift) = (bytes as usize / 4, bytes.trailing_zeros());
    let lanes = 32 / passes;
    let all = u32::MAX >> (32 - lanes);
    addresses.chunks_exact(lanes).all(|pass| {
        pass.iter().fold(0u32, |met, a| met | 1 << (a >> shift & (lanes as u64 - 1))) == all
            && pass.iter().all(|a| a & (u64::from(bytes) - 1) == 0)
    })
}

/// The words of a pass in which no two lanes meet at a bank, or all lanes want one place.
#[inline]
fn without_conflict(addresses: &[u64; 32], words: usize, part: u32) -> Option<u32> {
    let (mut banks, mut distinct, mut one) = (0u32, true, true);
    let first = addresses[part.trailing_zeros() as usize] / 4;
    for l in lanes(part) {
        let word = addresses[l] / 4;
        let own = (((1u64 << words) - 1) as u32).rotate_left((word % 32) as u32);
        distinct &= banks & own == 0;
        one &= word == first;
        banks |= own;
    }
    (distinct || one).then(|| banks.count_ones())
}

/// The most words that one bank must give, and distinct words.
fn conflicts(addresses: &[u64; 32], words: usize, part: u32) -> (u32, u32) {
    let (mut first, mut depth) = ([u64::MAX; 32], [0u32; 32]);
    let mut more: Vec<u64> = Vec::new();
    for l in lanes(part) {
        for k in 0..words as u64 {
            let word = addresses[l] / 4 + k;
            let bank = (word % 32) as usize;
            if first[bank] == u64::MAX {
                first[bank] = word;
                depth[bank] = 1;
            } else if first[bank] != word && !more.contains(&word) {
                more.push(word);
                depth[bank] += 1;
            }
        }
    }
    (depth.iter().max().copied().unwrap_or(0), depth.iter().sum())
}

/// 32-byte sectors that an access touches, and the fewest that could hold its distinct bytes.
pub fn sectors(addresses: &[u64; 32], bytes: u32, m: u32) -> (u32, u32) {
    let (mut sectors, mut places) = (0u32, 0u32);
    let mut last: Option<u64> = None;
    for l in lanes(m) {
        let at = addresses[l];
        match last {
            Some(before) if at < before => return scattered(addresses, bytes, m),
            Some(before) => {
                places += u32::from(at != before);
                sectors += u32::from(at / 32 != before / 32);
            }
            None => (sectors, places) = (1, 1),
        }
        last = Some(at);
    }
    (sectors, (places * bytes).div_ceil(32))
}

/// [`sectors`] of addresses in any order.
fn scattered(addresses: &[u64; 32], bytes: u32, m: u32) -> (u32, u32) {
    let mut places: Vec<u64> = lanes(m).map(|l| addresses[l]).collect();
    places.sort_unstable();
    places.dedup();
    let distinct = (places.len() as u32 * bytes).div_ceil(32);
    places.dedup_by_key(|a| *a / 32);
    (places.len() as u32, distinct)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_a_matrix_conflict_unless_they_are_skewed() {
        let rows = |stride: u64| std::array::from_fn(|l| l as u64 * stride);
        assert_eq!(wavefronts(&rows(16), 16, u32::MAX), (4, 4));
        assert_eq!(wavefronts(&rows(144), 16, u32::MAX), (4, 4));
        assert_eq!(wavefronts(&rows(128), 16, u32::MAX), (32, 4));
        assert_eq!(wavefronts(&rows(64), 16, 0xFF), (4, 1));
    }

    #[test]
    fn words_conflict_by_their_distance_and_broadcast_when_equal() {
        let words = |stride: u64| std::array::from_fn(|l| l as u64 * stride);
        assert_eq!(wavefronts(&words(4), 4, u32::MAX), (1, 1));
        assert_eq!(wavefronts(&words(8), 4, u32::MAX), (2, 1));
        assert_eq!(wavefronts(&words(128), 4, u32::MAX), (32, 1));
        assert_eq!(wavefronts(&words(0), 4, u32::MAX), (1, 1));
        // Two places, one of them wanted by half of the lanes.
        assert_eq!(wavefronts(&std::array::from_fn(|l| l as u64 / 16 * 128), 4, u32::MAX), (2, 1));
        assert_eq!(wavefronts(&words(2), 2, u32::MAX), (1, 1));
    }

    #[test]
    fn sectors_do_not_depend_on_the_order_of_lanes() {
        let up: [u64; 32] = std::array::from_fn(|l| l as u64 * 4);
        let mut down = up;
        down.reverse();
        for a in [up, down] {
            assert_eq!(sectors(&a, 4, u32::MAX), (4, 4));
        }
        let strided: [u64; 32] = std::array::from_fn(|l| l as u64 * 64);
        assert_eq!(sectors(&strided, 4, u32::MAX), (32, 4));
        assert_eq!(sectors(&[96; 32], 4, u32::MAX), (1, 1));
    }
}
