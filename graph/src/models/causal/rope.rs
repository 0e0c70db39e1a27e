//! Rotary tables: one row of cosines and sines a position, with the frequency scalings that stretch a context.

use super::wrong;
use crate::GraphError;
use serde::Deserialize;

/// `rope_scaling` of a `config.json`. Which fields matter depends on the type; absent ones have the reference's defaults.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct RopeScaling {
    /// `default`, `linear`, `dynamic`, `llama3` or `yarn`.
    #[serde(alias = "type")]
    pub rope_type: Option<String>,
    /// How much longer the context is than it was trained for.
    pub factor: Option<f64>,
    /// llama3: wavelengths above `original / low_freq_factor` are stretched wholly.
    pub low_freq_factor: Option<f64>,
    /// llama3: wavelengths below `original / high_freq_factor` stay.
    pub high_freq_factor: Option<f64>,
    /// Context of training.
    pub original_max_position_embeddings: Option<f64>,
    /// yarn: factor on cosines and sines; `0.1 ln(factor) + 1` where absent.
    pub attention_factor: Option<f64>,
    /// yarn: rotations over the trained context above which a frequency stays; 32 where absent.
    pub beta_fast: Option<f64>,
    /// yarn: rotations below which a frequency is stretched wholly; 1 where absent.
    pub beta_slow: Option<f64>,
    /// yarn: with `mscale_all_dim`, a factor in place of `attention_factor`.
    pub mscale: Option<f64>,
    /// yarn: see `mscale`.
    pub mscale_all_dim: Option<f64>,
    /// yarn: whether the bounds between the frequencies are rounded to whole ones; they are where absent.
    pub truncate: Option<bool>,
    /// Base of the frequencies, where the configuration keeps it here (Transformers 5).
    pub rope_theta: Option<f64>,
    /// Divides each frequency, `head_dim / 2` of them: how GGUF files keep the llama3 scaling.
    #[serde(skip)]
    pub frequency_factors: Option<Vec<f32>>,
}

impl RopeScaling {
    /// Checks what [`table`] relies on.
    pub(super) fn validate(&self, model: &str, head_dim: usize) -> Result<(), GraphError> {
        let positive = |field: &str, value: Option<f64>, required: bool| match value {
            Some(x) if x > 0.0 && x.is_finite() => Ok(()),
            None if !required => Ok(()),
            other => {
                let value = other.map_or("absent".into(), |x| x.to_string());
                Err(wrong(model, &format!("rope_scaling.{field}"), value, "a positive number"))
            }
        };
        if let Some(factors) = &self.frequency_factors
            && (factors.len() != head_dim / 2 || factors.iter().any(|f| !(*f > 0.0 && f.is_finite())))
        {
            let expected = format!("{} positive numbers", head_dim / 2);
            return Err(wrong(model, "rope_freqs", format!("{} numbers", factors.len()), expected));
        }
        let kind = self.kind();
        match kind {
            "default" | "linear" | "dynamic" | "llama3" | "yarn" => {}
            _ => {
                let expected = "\"default\", \"linear\", \"dynamic\", \"llama3\" or \"yarn\"";
                return Err(wrong(model, "rope_scaling.rope_type", kind, expected));
            }
        }
        positive("factor", self.factor, !matches!(kind, "default" | "yarn"))?;
        positive("low_freq_factor", self.low_freq_factor, kind == "llama3")?;
        positive("high_freq_factor", self.high_freq_factor, kind == "llama3")?;
        positive(
            "original_max_position_embeddings",
            self.original_max_position_embeddings,
            kind == "llama3",
        )?;
        positive("attention_factor", self.attention_factor, false)?;
        positive("beta_fast", self.beta_fast, false)?;
        positive("beta_slow", self.beta_slow, false)?;
        positive("rope_theta", self.rope_theta, false)?;
        for (field, value) in [("mscale", self.mscale), ("mscale_all_dim", self.mscale_all_dim)] {
            if let Some(value) = value.filter(|value| !(*value >= 0.0 && value.is_finite())) {
                return Err(wrong(model, &format!("rope_scaling.{field}"), value, "a number of at least 0"));
            }
        }
        if kind == "llama3" && self.low_freq_factor >= self.high_freq_factor {
            let value = format!("{:?}", self.high_freq_factor.unwrap_or(0.0));
            let expected = "a number above low_freq_factor";
            return Err(wrong(model, "rope_scaling.high_freq_factor", value, expected));
        }
        Ok(())
    }

    fn kind(&self) -> &str {
        self.rope_type.as_deref().unwrap_or("default")
    }
}

/// `dim / 2` frequencies and the factor on cosines and sines, as Transformers' `modeling_rope_utils.py` has them. The
/// frequencies are rounded to f32 as there.
fn frequencies(dim: usize, theta: f64, scaling: &RopeScaling, max_positions: usize) -> (Vec<f32>, f64) {
    let half = dim / 2;
    let plain = |i: usize| theta.powf(-((2 * i) as f64) / dim as f64);
    let factor = scaling.factor.unwrap_or(1.0);
    let original = scaling.original_max_position_embeddings.unwrap_or(max_positions as f64);
    let tau = 2.0 * std::f64::consts::PI;
    match scaling.kind() {
        "linear" => ((0..half).map(|i| (plain(i) / factor) as f32).collect(), 1.0),
        "llama3" => {
            let (low, high) =
                (scaling.low_freq_factor.unwrap_or(1.0), scaling.high_freq_factor.unwrap_or(4.0));
            let scaled = |f: f64| {
                let wavelength = tau / f;
                if wavelength < original / high {
                    f
                } else if wavelength > original / low {
                    f / factor
                } else {
                    let smooth = (original / wavelength - low) / (high - low);
                    (1.0 - smooth) * f / factor + smooth * f
                }
            };
            ((0..half).map(|i| scaled(plain(i)) as f32).collect(), 1.0)
        }
        "yarn" => {
            // Dimension whose frequency makes so many rotations over the trained context.
            let dimension =
                |rotations: f64| dim as f64 * (original / (rotations * tau)).ln() / (2.0 * theta.ln());
            let (mut low, mut high) =
                (dimension(scaling.beta_fast.unwrap_or(32.0)), dimension(scaling.beta_slow.unwrap_or(1.0)));
            if scaling.truncate.unwrap_or(true) {
                (low, high) = (low.floor(), high.ceil());
            }
            (low, high) = (low.max(0.0), high.min(dim as f64 - 1.0));
            let width = if high == low { 0.001 } else { high - low };
            let factor = scaling.factor.unwrap_or(max_positions as f64 / original);
            let scaled = |i: usize| {
                let stretched = ((i as f64 - low) / width).clamp(0.0, 1.0);
                plain(i) / factor * stretched + plain(i) * (1.0 - stretched)
            };
            let magnitude = |scale: f64| if factor <= 1.0 { 1.0 } else { 0.1 * scale * factor.ln() + 1.0 };
            let attention = scaling.attention_factor.unwrap_or_else(|| {
                match (scaling.mscale.unwrap_or(0.0), scaling.mscale_all_dim.unwrap_or(0.0)) {
                    (0.0, _) | (_, 0.0) => magnitude(1.0),
                    (one, all) => magnitude(one) / magnitude(all),
                }
            });
            ((0..half).map(|i| scaled(i) as f32).collect(), attention)
        }
        // A dynamic scaling stretches only beyond the positions that the model was made for, which no text here exceeds.
        _ => {
            let factor = |i: usize| scaling.frequency_factors.as_ref().map_or(1.0, |f| f64::from(f[i]));
            ((0..half).map(|i| (plain(i) / factor(i)) as f32).collect(), 1.0)
        }
    }
}

/// The table `[positions, dim]` of [`crate::Op::Rope`]: `dim / 2` cosines, then as many sines. The phase is an f32
/// product, as the reference's is.
pub(super) fn table(
    positions: usize,
    dim: usize,
    theta: f64,
    scaling: &RopeScaling,
    max_positions: usize,
) -> Vec<f32> {
    let (frequencies, factor) = frequencies(dim, theta, scaling, max_positions);
    let mut table = Vec::with_capacity(positions * dim);
    for position in 0..positions {
        let phase = |f: &f32| f64::from(position as f32 * f);
        table.extend(frequencies.iter().map(|f| (phase(f).cos() * factor) as f32));
        table.extend(frequencies.iter().map(|f| (phase(f).sin() * factor) as f32));
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scaling(kind: &str) -> RopeScaling {
        RopeScaling {
            rope_type: Some(kind.into()),
            factor: Some(8.0),
            low_freq_factor: Some(1.0),
            high_freq_factor: Some(4.0),
            original_max_position_embeddings: Some(64.0),
            ..RopeScaling::default()
        }
    }

    #[test]
    fn scalings_leave_fast_frequencies_and_stretch_slow_ones() {
        let (plain, _) = frequencies(64, 10000.0, &RopeScaling::default(), 512);
        for kind in ["llama3", "yarn"] {
            let (scaled, factor) = frequencies(64, 10000.0, &scaling(kind), 512);
            assert_eq!(scaled[0], plain[0], "{kind}");
            assert!((scaled[31] * 8.0 / plain[31] - 1.0).abs() < 1e-6, "{kind}");
            assert!(scaled.windows(2).all(|w| w[0] > w[1]), "{kind}");
            assert_eq!(factor > 1.0, kind == "yarn");
        }
        let (linear, _) = frequencies(64, 10000.0, &scaling("linear"), 512);
        assert_eq!(linear[0] * 8.0, plain[0]);
    }

    #[test]
    fn what_a_scaling_lacks_is_named() {
        let error = |s: RopeScaling| s.validate("llama", 64).unwrap_err().to_string();
        assert!(error(scaling("longrope")).contains("rope_scaling.rope_type = longrope"));
        assert!(
            error(RopeScaling { factor: None, ..scaling("linear") }).contains("rope_scaling.factor = absent")
        );
        let flat = RopeScaling { high_freq_factor: Some(1.0), ..scaling("llama3") };
        assert!(error(flat).contains("above low_freq_factor"));
    }
}
