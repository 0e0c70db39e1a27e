//! `prove`: every family of kernels on the device that is there, judged against f64.
//!
//! The host code is what an engine's would be: the launch rules with the device's own limits, uploads and downloads on one
//! stream, kernels on another, bound by events alone. So the same program proves two things: on a GPU, that the kernels are
//! right there; in emulation, that the host code is right too, and that breaking it anywhere is noticed.

mod attention;
mod codebook;
mod gemm;
mod host;
mod layer_norm;
mod random;

use std::process::ExitCode;

use selftok_kernels_cuda::device::DeviceError;

use host::Host;

const USAGE: &str = "\
usage: selftok-kernels-cuda prove [attention | codebook | gemm | layer_norm]... [--size tiny|small|large] [--repeat N]
                                  [--device N]

  --size    tiny: one case a family; small (default): every kind of kernel; large: also the sizes that a GPU is timed at
  --repeat  launches of each case, of which the fastest is told

Prints for each case the kernel that the launch rule chose, the largest error against f64, the largest share of what rounding
explains, and the time. Exit code: 0 all within rounding; 1 a wrong result, or an error of the driver; 2 usage; 4 no GPU";

/// How much is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd)]
enum Size {
    Tiny,
    Small,
    Large,
}

/// What a case came to.
struct Proof {
    /// Kernels that the launch rule chose.
    kernels: String,
    /// The case in words.
    shape: String,
    judged: Judged,
    /// Milliseconds of the fastest launch.
    milliseconds: f32,
    /// Floating-point operations of one launch.
    flop: f64,
}

/// Errors of a case's outputs.
#[derive(Debug, Default)]
struct Judged {
    /// Outputs that were compared.
    outputs: usize,
    /// The largest absolute error.
    error: f64,
    /// The largest error as a share of what rounding explains; at most 1 where the kernel is right.
    share: f64,
    /// The first output that is further off, in words.
    wrong: Option<String>,
}

impl Judged {
    /// Compares an output with the exact value and the most that rounding explains.
    fn compare(&mut self, got: f64, exact: f64, tolerance: f64, place: impl FnOnce() -> String) {
        let error = (got - exact).abs();
        self.outputs += 1;
        self.error = self.error.max(error);
        self.share = self.share.max(error / tolerance);
        // A NaN must fail, so the comparison is for being inside.
        let inside = error <= tolerance;
        if !inside {
            self.fail(|| format!("{}: got {got}, expected {exact} ± {tolerance:.3e}", place()));
        }
    }

    /// Notes something wrong, if it is the first.
    fn fail(&mut self, what: impl FnOnce() -> String) {
        self.wrong.get_or_insert_with(what);
    }
}

/// What the command line asks for.
struct Request {
    families: Vec<String>,
    size: Size,
    repeat: usize,
    device: usize,
}

const FAMILIES: [&str; 4] = ["attention", "codebook", "gemm", "layer_norm"];

fn parse(words: &[&str]) -> Option<Request> {
    let mut request = Request { families: Vec::new(), size: Size::Small, repeat: 1, device: 0 };
    let mut words = words.iter();
    while let Some(&word) = words.next() {
        match word {
            "--size" => {
                request.size = match *words.next()? {
                    "tiny" => Size::Tiny,
                    "small" => Size::Small,
                    "large" => Size::Large,
                    _ => return None,
                }
            }
            "--repeat" => request.repeat = words.next()?.parse().ok().filter(|n| *n > 0)?,
            "--device" => request.device = words.next()?.parse().ok()?,
            family if FAMILIES.contains(&family) => request.families.push(family.to_owned()),
            _ => return None,
        }
    }
    if request.families.is_empty() {
        request.families = FAMILIES.map(String::from).to_vec();
    }
    Some(request)
}

/// Runs the command; the words are what follows `prove`.
pub fn run(words: &[&str]) -> ExitCode {
    let Some(request) = parse(words) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    let host = match Host::open(request.device) {
        Ok(host) => host,
        Err(error) => {
            eprintln!("error: {error}");
            let none = matches!(error, DeviceError::NoDriver | DeviceError::TooOld { .. });
            return ExitCode::from(if none { 4 } else { 1 });
        }
    };
    println!("{}, {} SMs", host.kernels.name(), host.kernels.limits().sms);
    let mut right = true;
    for family in &request.families {
        let proofs = match family.as_str() {
            "attention" => attention::prove(&host, request.size, request.repeat),
            "codebook" => codebook::prove(&host, request.size, request.repeat),
            "gemm" => gemm::prove(&host, request.size, request.repeat),
            _ => layer_norm::prove(&host, request.size, request.repeat),
        };
        let proofs = proofs.and_then(|proofs| host.finish().map(|()| proofs));
        match proofs {
            Ok(proofs) => proofs.iter().for_each(|proof| right &= tell(proof)),
            Err(error) => {
                eprintln!("error: {family}: {error}");
                return ExitCode::from(1);
            }
        }
    }
    ExitCode::from(u8::from(!right))
}

/// Prints a line of the table; false when a result is wrong.
fn tell(proof: &Proof) -> bool {
    let Proof { kernels, shape, judged, milliseconds, flop } = proof;
    println!(
        "{kernels:<40} {shape:<52} error {:9.3e}  of rounding {:5.3}  {milliseconds:9.3} ms  {:9.2} GFLOP/s",
        judged.error,
        judged.share,
        flop / f64::from(*milliseconds).max(1e-9) * 1e-6,
    );
    if let Some(wrong) = &judged.wrong {
        eprintln!("wrong result: {kernels}: {wrong}");
    }
    judged.wrong.is_none() && judged.outputs > 0
}
