//! Stored bytes → f32, for every dtype, from any element on and without needing alignment.
//!
//! Mapped tensors start wherever the file puts them, so no slice is ever reinterpreted: each element is assembled
//! from its little-endian bytes, which compiles to plain vector loads.

use half::f16;
use half::slice::HalfFloatSliceExt;

use crate::dtype::DType;

/// Reads `out.len()` elements from element `start` on. `bytes` is the whole tensor and holds at least `start +
/// out.len()` elements (the caller has checked). Integers beyond 2^24 round to the nearest f32, as `as f32` does;
/// BOOL gives 0 or 1.
pub(crate) fn to_f32(dtype: DType, bytes: &[u8], start: usize, out: &mut [f32]) {
    match dtype {
        DType::F32 => each(bytes, start, out, f32::from_le_bytes),
        DType::F64 => each(bytes, start, out, |b| f64::from_le_bytes(b) as f32),
        DType::BF16 => each(bytes, start, out, |b| f32::from_bits((u16::from_le_bytes(b) as u32) << 16)),
        DType::F16 => from_f16(bytes, start, out),
        DType::I64 => each(bytes, start, out, |b| i64::from_le_bytes(b) as f32),
        DType::I32 => each(bytes, start, out, |b| i32::from_le_bytes(b) as f32),
        DType::I16 => each(bytes, start, out, |b| i16::from_le_bytes(b) as f32),
        DType::I8 => each(bytes, start, out, |b: [u8; 1]| b[0] as i8 as f32),
        DType::U8 => each(bytes, start, out, |b: [u8; 1]| b[0] as f32),
        DType::Bool => each(bytes, start, out, |b: [u8; 1]| (b[0] != 0) as u8 as f32),
        DType::Q8_0 | DType::Q4_0 | DType::Q4_1 => blocks(dtype, bytes, start, out),
    }
}

fn each<const N: usize>(bytes: &[u8], start: usize, out: &mut [f32], f: impl Fn([u8; N]) -> f32) {
    let source = &bytes[start * N..(start + out.len()) * N];
    let (elements, _) = source.as_chunks::<N>();
    for (o, b) in out.iter_mut().zip(elements) {
        *o = f(*b);
    }
}

/// `half` converts whole slices with F16C where the CPU has it; a small buffer on the stack gives it aligned input.
fn from_f16(bytes: &[u8], start: usize, out: &mut [f32]) {
    let source = &bytes[start * 2..(start + out.len()) * 2];
    let mut buffer = [f16::ZERO; 512];
    for (o, s) in out.chunks_mut(512).zip(source.chunks(1024)) {
        for (h, b) in buffer.iter_mut().zip(s.as_chunks::<2>().0) {
            *h = f16::from_le_bytes(*b);
        }
        buffer[..o.len()].convert_to_f32_slice(o);
    }
}

fn blocks(dtype: DType, bytes: &[u8], start: usize, out: &mut [f32]) {
    let (len, size) = (dtype.block_len(), dtype.block_bytes());
    let mut decoded = [0f32; 32];
    let mut done = 0;
    while done < out.len() {
        let at = start + done;
        let (block, skip) = (at / len, at % len);
        let take = (len - skip).min(out.len() - done);
        dequantise(dtype, &bytes[block * size..(block + 1) * size], &mut decoded);
        out[done..done + take].copy_from_slice(&decoded[skip..skip + take]);
        done += take;
    }
}

fn dequantise(dtype: DType, block: &[u8], out: &mut [f32; 32]) {
    let half_at = |i: usize| f16::from_le_bytes([block[i], block[i + 1]]).to_f32();
    let d = half_at(0);
    match dtype {
        DType::Q8_0 => {
            for (o, &q) in out.iter_mut().zip(&block[2..34]) {
                *o = d * (q as i8) as f32;
            }
        }
        DType::Q4_0 => {
            for (j, &q) in block[2..18].iter().enumerate() {
                out[j] = d * ((q & 15) as i32 - 8) as f32;
                out[j + 16] = d * ((q >> 4) as i32 - 8) as f32;
            }
        }
        // Q4_1, the only one left: `to_f32` sends no other dtype here.
        _ => {
            let m = half_at(2);
            for (j, &q) in block[4..20].iter().enumerate() {
                out[j] = d * (q & 15) as f32 + m;
                out[j + 16] = d * (q >> 4) as f32 + m;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(dtype: DType, bytes: &[u8], start: usize, n: usize) -> Vec<f32> {
        let mut out = vec![f32::NAN; n];
        to_f32(dtype, bytes, start, &mut out);
        out
    }

    #[test]
    fn plain_dtypes_convert_from_unaligned_bytes() {
        // One byte in front makes every element unaligned.
        let le = |v: &[&[u8]]| [&[0xee][..], &v.concat()].concat();
        let f = le(&[&1.5f32.to_le_bytes(), &(-2.25f32).to_le_bytes(), &3f32.to_le_bytes()]);
        assert_eq!(read(DType::F32, &f[1..], 1, 2), [-2.25, 3.0]);
        let f = le(&[&0.1f64.to_le_bytes(), &(-7f64).to_le_bytes()]);
        assert_eq!(read(DType::F64, &f[1..], 0, 2), [0.1, -7.0]);
        let f = le(&[&f16::from_f32(0.333).to_le_bytes(), &f16::NEG_INFINITY.to_le_bytes()]);
        assert_eq!(read(DType::F16, &f[1..], 0, 2), [f16::from_f32(0.333).to_f32(), f32::NEG_INFINITY]);
        let f = le(&[&half::bf16::from_f32(1e30).to_le_bytes(), &half::bf16::NAN.to_le_bytes()]);
        let got = read(DType::BF16, &f[1..], 0, 2);
        assert!(got[0] == half::bf16::from_f32(1e30).to_f32() && got[1].is_nan());
        let f = le(&[&(-5i64).to_le_bytes(), &(1i64 << 40).to_le_bytes()]);
        assert_eq!(read(DType::I64, &f[1..], 0, 2), [-5.0, (1u64 << 40) as f32]);
        assert_eq!(read(DType::I8, &[0x80, 0x7f], 0, 2), [-128.0, 127.0]);
        assert_eq!(read(DType::Bool, &[0, 1, 7], 0, 3), [0.0, 1.0, 1.0]);
    }

    #[test]
    fn every_f16_converts_exactly() {
        let bytes: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
        for (i, x) in read(DType::F16, &bytes, 0, 65536).into_iter().enumerate() {
            let want = f16::from_bits(i as u16).to_f64();
            assert!(x as f64 == want || (x.is_nan() && want.is_nan()), "{i:#x}");
        }
    }

    #[test]
    fn quantised_blocks_decode_from_any_element_on() {
        let d = f16::from_f32(0.5).to_le_bytes();
        let m = f16::from_f32(-1.0).to_le_bytes();
        let nibbles: Vec<u8> = (0..16).map(|j| j | ((15 - j) << 4)).collect();
        let q8: Vec<u8> = (0..32).map(|j| (j as i8 - 16) as u8).collect();
        let value = |dtype, i: usize| {
            let q = if i < 16 { i } else { 31 - i } as f32;
            match dtype {
                DType::Q8_0 => 0.5 * (i as f32 - 16.0),
                DType::Q4_0 => 0.5 * (q - 8.0),
                _ => 0.5 * q - 1.0,
            }
        };
        for (dtype, block) in [
            (DType::Q8_0, [&d[..], &q8].concat()),
            (DType::Q4_0, [&d[..], &nibbles].concat()),
            (DType::Q4_1, [&d[..], &m, &nibbles].concat()),
        ] {
            assert_eq!(block.len(), dtype.block_bytes());
            let two = [block.clone(), block].concat();
            let whole: Vec<f32> = (0..64).map(|i| value(dtype, i % 32)).collect();
            for start in 0..64 {
                assert_eq!(read(dtype, &two, start, 64 - start), whole[start..], "{dtype} from {start}");
                assert_eq!(read(dtype, &two, 0, start), whole[..start], "{dtype} up to {start}");
            }
        }
    }
}
