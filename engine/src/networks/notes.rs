//! Which tensors beside a network's inputs may be passed over.
//!
//! A recording of a run holds more than its inputs: results, hidden states, notes of whoever made it. Those may be there. But
//! what the reference library would take into account must not be lost in silence, nor an input whose name is mistyped.

/// Inputs of the reference libraries' networks that change results.
const REFERENCE_INPUTS: &[&str] = &[
    "attention_mask",
    "bool_masked_pos",
    "cache_position",
    "class_labels",
    "controlnet_block_samples",
    "cross_attention_kwargs",
    "decoder_input_ids",
    "encoder_attention_mask",
    "encoder_hidden_states",
    "guidance",
    "head_mask",
    "input_ids",
    "inputs_embeds",
    "interpolate_pos_encoding",
    "past_key_values",
    "pixel_values",
    "pooled_projections",
    "position_ids",
    "sample",
    "skip_layers",
    "timestep",
    "timestep_cond",
    "token_type_ids",
];

/// Whether a tensor of this name, which is neither an input nor a result, may be passed over.
pub(super) fn is_note(name: &str, inputs: &[&str]) -> bool {
    !inputs.iter().chain(REFERENCE_INPUTS).any(|input| resembles(name, input))
}

/// Whether one may have been meant for the other: the same but for case and separators, or, where names are long enough to
/// tell, within two letters.
fn resembles(a: &str, b: &str) -> bool {
    let plain = |name: &str| -> Vec<char> {
        name.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).take(64).collect()
    };
    let (a, b) = (plain(a), plain(b));
    a == b || (a.len().min(b.len()) > 4 && distance(&a, &b) <= 2)
}

/// Letters to put in, leave out or change (Levenshtein).
fn distance(a: &[char], b: &[char]) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut corner = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let changed = corner + usize::from(x != y);
            corner = row[j + 1];
            row[j + 1] = changed.min(row[j] + 1).min(corner + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recording_may_hold_more_than_inputs() {
        for name in ["hidden1", "greedy", "greedy_logits", "attentions", "loss", "noise", "y"] {
            assert!(is_note(name, &["pixel_values", "x_t", "t"]), "{name}");
        }
    }

    #[test]
    fn what_may_be_an_input_is_not_lost() {
        for name in
            ["pixel_value", "PixelValues", "pixel-values", "T", "xt", "input_idx", "position_ids", "latents"]
        {
            assert!(!is_note(name, &["pixel_values", "x_t", "t", "latent"]), "{name}");
        }
        assert_eq!(distance(&['a', 'b', 'c'], &['b', 'c', 'd']), 2);
    }
}
