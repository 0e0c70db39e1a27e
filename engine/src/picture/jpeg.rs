//! Whether a JPEG file is all there.
//!
//! JPEG decoders are lenient: of a file cut in half they show the upper half over grey and report nothing. Tokens of
//! such a picture would be wrong in silence, so the markers are walked first: a complete file reaches its end-of-image
//! marker, and inside entropy-coded data every 0xFF byte is followed by a stuffed zero or a restart number
//! (ITU-T T.81, annex B).

const SOI: u8 = 0xD8;
const EOI: u8 = 0xD9;
const SOS: u8 = 0xDA;

/// Whether the first image in `bytes` runs up to its end-of-image marker.
pub(super) fn is_complete(bytes: &[u8]) -> bool {
    if bytes.get(..2) != Some(&[0xFF, SOI]) {
        return false;
    }
    let mut at = 2;
    let mut coded = false;
    loop {
        // Outside of entropy-coded data a marker must come next; decoders forgive stray bytes there, so we do.
        let Some(marker) = next_marker(bytes, &mut at, coded) else { return false };
        match marker {
            EOI => return true,
            // Markers that stand alone.
            0x01 | SOI | 0xD0..=0xD7 => {}
            _ => {
                let Some(length) =
                    bytes.get(at..at + 2).map(|b| usize::from(u16::from_be_bytes([b[0], b[1]])))
                else {
                    return false;
                };
                at += length.max(2);
                coded = marker == SOS;
            }
        }
    }
}

/// The next marker at or after `at`, which moves behind it.
fn next_marker(bytes: &[u8], at: &mut usize, coded: bool) -> Option<u8> {
    loop {
        *at += bytes.get(*at..)?.iter().position(|&b| b == 0xFF)? + 1;
        let code = *bytes.get(*at)?;
        match code {
            0xFF => {} // fill byte: look at the next 0xFF
            0x00 => *at += 1,
            0xD0..=0xD7 if coded => *at += 1,
            _ => {
                *at += 1;
                return Some(code);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markers_inside_segments_and_coded_data_do_not_end_the_image() {
        // A comment that holds EOI, a scan with a stuffed 0xFF and a restart marker, then the end.
        let whole = [
            &[0xFF, SOI, 0xFF, 0xFE, 0, 4, 0xFF, EOI][..],
            &[0xFF, SOS, 0, 2, 1, 0xFF, 0, 2, 0xFF, 0xD3, 3, 0xFF, 0xFF, EOI],
        ]
        .concat();
        assert!(is_complete(&whole));
        for end in 0..whole.len() {
            assert!(!is_complete(&whole[..end]), "cut at {end}");
        }
    }
}
