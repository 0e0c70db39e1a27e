//! What the environment asks for. Read once, when the driver is first called; a value that cannot be understood is a
//! note in the report and on stderr, and the default stands.

use crate::mutation::Mode;
use ptx_emulator::{Accumulation, Approximation, ApproximationMode, Checks, Gpu, Options, Order};
use std::path::PathBuf;

/// How this process emulates.
pub struct Settings {
    /// The modelled GPU.
    pub gpu: Gpu,
    /// How many.
    pub devices: usize,
    /// Options of the emulator.
    pub options: Options,
    /// Seed of the scheduler of streams.
    pub seed: u64,
    /// The mistake to make in the host's calls.
    pub mutate: Mode,
    /// Where the report goes.
    pub report: Option<PathBuf>,
    /// What could not be understood.
    pub complaints: Vec<String>,
}

impl Settings {
    /// Reads the environment through `variable`.
    pub fn read(variable: impl Fn(&str) -> Option<String>) -> Settings {
        let mut s = Settings {
            gpu: Gpu::a100(),
            devices: 1,
            options: Options::default(),
            seed: 0,
            mutate: Mode::Off,
            report: None,
            complaints: Vec::new(),
        };
        let number = |name: &str, complaints: &mut Vec<String>| {
            let text = variable(name)?;
            let value = text.parse::<u64>();
            if value.is_err() {
                complaints.push(format!("{name}='{text}' is not a number"));
            }
            value.ok()
        };
        if let Some(name) = variable("PTX_EMULATOR_GPU") {
            match Gpu::by_name(&name) {
                Some(gpu) => s.gpu = gpu,
                None => s
                    .complaints
                    .push(format!("PTX_EMULATOR_GPU='{name}': known are a100, rtx4090, h100, rtx5090")),
            }
        }
        if let Some(n) = number("PTX_EMULATOR_DEVICES", &mut s.complaints) {
            s.devices = n.clamp(1, 8) as usize;
        }
        if let Some(n) = number("PTX_EMULATOR_SEED", &mut s.complaints) {
            s.seed = n;
        }
        if let Some(n) = number("PTX_EMULATOR_THREADS", &mut s.complaints) {
            s.options.threads = n.min(256) as usize;
        }
        if let Some(text) = variable("PTX_EMULATOR_ORDER") {
            match text.parse::<Order>() {
                Ok(order) => s.options.order = order,
                Err(e) => s.complaints.push(format!("PTX_EMULATOR_ORDER: {e}")),
            }
        }
        if let Some(text) = variable("PTX_EMULATOR_APPROX") {
            match approximation(&text) {
                Some(approximation) => s.options.approximation = approximation,
                None => s.complaints.push(format!(
                    "PTX_EMULATOR_APPROX='{text}': known are exact, below, above, random, random:SEED"
                )),
            }
        }
        if let Some(text) = variable("PTX_EMULATOR_ACCUMULATION") {
            s.options.accumulation = match text.as_str() {
                "sequential" => Accumulation::Sequential,
                "pairwise" => Accumulation::Pairwise,
                "truncating" => Accumulation::Truncating,
                _ => {
                    let known = "known are sequential, pairwise, truncating";
                    s.complaints.push(format!("PTX_EMULATOR_ACCUMULATION='{text}': {known}"));
                    s.options.accumulation
                }
            };
        }
        if let Some(text) = variable("PTX_EMULATOR_MUTATE") {
            match text.parse::<Mode>() {
                Ok(mode) => s.mutate = mode,
                Err(e) => s.complaints.push(format!("PTX_EMULATOR_MUTATE={e}")),
            }
        }
        if let Some(text) = variable("PTX_EMULATOR_CHECKS") {
            set_checks(&text, &mut s.options.checks, &mut s.complaints);
        }
        s.report = variable("PTX_EMULATOR_REPORT")
            .filter(|path| !path.is_empty())
            .map(|path| PathBuf::from(path.replace("%p", &std::process::id().to_string())));
        s
    }
}

fn approximation(text: &str) -> Option<Approximation> {
    let (name, seed) = match text.split_once(':') {
        Some((name, seed)) => (name, seed.parse().ok()?),
        None => (text, 0),
    };
    let mode = match name {
        "exact" => ApproximationMode::Exact,
        "below" | "min" => ApproximationMode::Below,
        "above" | "max" => ApproximationMode::Above,
        "random" => ApproximationMode::Random,
        _ => return None,
    };
    Some(Approximation { mode, seed })
}

/// `-race,-shuffle` turns two off; `-all,bounds` all but one.
fn set_checks(text: &str, checks: &mut Checks, complaints: &mut Vec<String>) {
    for word in text.split(',').map(str::trim).filter(|w| !w.is_empty()) {
        let (name, on) = match word.strip_prefix('-') {
            Some(name) => (name, false),
            None => (word.trim_start_matches('+'), true),
        };
        if name == "all" {
            *checks = if on { Checks::default() } else { Checks::none() };
        } else if !checks.set(name, on) {
            complaints.push(format!(
                "PTX_EMULATOR_CHECKS: '{name}' is no check: all, {}",
                Checks::NAMES.join(", ")
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(pairs: &[(&str, &str)]) -> Settings {
        Settings::read(|name| pairs.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned()))
    }

    #[test]
    fn an_empty_environment_gives_the_defaults() {
        let s = settings(&[]);
        assert_eq!((s.gpu, s.devices, s.seed, s.report), (Gpu::a100(), 1, 0, None));
        assert!(s.complaints.is_empty());
    }

    #[test]
    fn every_variable_is_taken() {
        let s = settings(&[
            ("PTX_EMULATOR_GPU", "H100"),
            ("PTX_EMULATOR_DEVICES", "2"),
            ("PTX_EMULATOR_ORDER", "random:3"),
            ("PTX_EMULATOR_SEED", "7"),
            ("PTX_EMULATOR_APPROX", "random:5"),
            ("PTX_EMULATOR_ACCUMULATION", "truncating"),
            ("PTX_EMULATOR_CHECKS", "-all,bounds"),
            ("PTX_EMULATOR_REPORT", "r-%p.json"),
        ]);
        assert_eq!((s.gpu, s.devices, s.seed), (Gpu::h100(), 2, 7));
        assert_eq!(s.options.order, Order::Random(3));
        assert_eq!(s.options.approximation, Approximation { mode: ApproximationMode::Random, seed: 5 });
        assert_eq!(s.options.accumulation, Accumulation::Truncating);
        assert!(s.options.checks.bounds && !s.options.checks.race);
        assert_eq!(s.report, Some(format!("r-{}.json", std::process::id()).into()));
        assert_eq!(s.complaints, Vec::<String>::new());
    }

    #[test]
    fn nonsense_is_named_and_the_default_stands() {
        let s = settings(&[
            ("PTX_EMULATOR_GPU", "voodoo2"),
            ("PTX_EMULATOR_SEED", "x"),
            ("PTX_EMULATOR_ACCUMULATION", "twice"),
            ("PTX_EMULATOR_CHECKS", "-rice"),
        ]);
        assert_eq!((s.gpu, s.seed, s.options.checks), (Gpu::a100(), 0, Checks::default()));
        assert_eq!(s.complaints.len(), 4);
        assert!(s.complaints[3].contains("'rice'"), "{:?}", s.complaints);
    }
}
