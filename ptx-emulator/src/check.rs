//! What can be found wrong with a kernel, and which of these checks are on.

use crate::error::CudaError;
use serde::Serialize;

/// The kind of a finding; in JSON, lower case with dashes (`"in-flight"`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum FindingKind {
    /// Two accesses to one address, one of them a write, that nothing orders.
    Race,
    /// Outside every allocation, or the memory of the block.
    Bounds,
    /// Address not a multiple of the access size.
    Misaligned,
    /// Read of bytes that nobody wrote, or use of a register that nobody wrote.
    Uninitialised,
    /// Touches the destination or source of an asynchronous copy that was not waited for.
    InFlight,
    /// A barrier that not all threads reach, or a misuse of one.
    Barrier,
    /// A warp instruction whose mask and participants differ, or that reads a lane that is not there.
    Shuffle,
    /// Exceeds a limit of the modelled GPU.
    Resource,
    /// Access to freed memory.
    Freed,
    /// Write to read-only memory.
    ReadOnly,
    /// Nothing can make progress.
    Deadlock,
    /// `trap`, or an operand outside its legal range.
    Trap,
    /// A PTX text that is refused: nothing was run.
    Module,
}

impl FindingKind {
    /// Whether a GPU would stop the kernel here, and with which error.
    pub fn fatal(self) -> Option<CudaError> {
        match self {
            FindingKind::Bounds | FindingKind::Freed | FindingKind::ReadOnly => {
                Some(CudaError::IllegalAddress)
            }
            FindingKind::Misaligned => Some(CudaError::MisalignedAddress),
            FindingKind::Deadlock => Some(CudaError::LaunchTimeout),
            FindingKind::Trap => Some(CudaError::LaunchFailed),
            FindingKind::Module => Some(CudaError::InvalidPtx),
            FindingKind::Resource => Some(CudaError::LaunchOutOfResources),
            FindingKind::Race
            | FindingKind::Uninitialised
            | FindingKind::InFlight
            | FindingKind::Barrier
            | FindingKind::Shuffle => None,
        }
    }
}

/// One thing found wrong. Equal kinds at one line are reported once, with a count.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Finding {
    /// What is wrong.
    pub kind: FindingKind,
    /// Kernel.
    pub kernel: String,
    /// Line of the PTX text, from 1.
    pub line: u32,
    /// `%ctaid` of the first occurrence.
    pub block: [u32; 3],
    /// `%tid` of the first occurrence.
    pub thread: [u32; 3],
    /// Address, where one is involved.
    pub address: Option<u64>,
    /// A sentence.
    pub message: String,
    /// How often it happened.
    pub count: u64,
    /// The error a GPU would give, when it would stop the kernel.
    pub error: Option<CudaError>,
}

impl Finding {
    /// What found it: the check's name in [`Checks::NAMES`], which is `race` for races of lanes too; `deadlock`, `trap` or
    /// `module` for what cannot be turned off.
    pub fn detector(&self) -> &'static str {
        match self.kind {
            FindingKind::Bounds | FindingKind::ReadOnly => "bounds",
            FindingKind::Freed => "freed",
            FindingKind::Misaligned => "misaligned",
            // A register has no address.
            FindingKind::Uninitialised if self.address.is_none() => "registers",
            FindingKind::Uninitialised => "uninitialised",
            FindingKind::InFlight => "in-flight",
            FindingKind::Race => "race",
            FindingKind::Barrier => "barrier",
            FindingKind::Shuffle => "shuffle",
            FindingKind::Resource => "resource",
            FindingKind::Deadlock => "deadlock",
            FindingKind::Trap => "trap",
            FindingKind::Module => "module",
        }
    }
}

/// Which checks are on. All are, by default; each can be turned off alone.
///
/// Bounds, freed and read-only accesses are never carried out even when their check is off: a load gives zero.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[allow(missing_docs)]
pub struct Checks {
    pub bounds: bool,
    pub freed: bool,
    pub misaligned: bool,
    pub uninitialised: bool,
    /// Registers that nobody wrote, when something acts on one.
    pub registers: bool,
    pub in_flight: bool,
    /// Races between warps, of one block or of several.
    pub race: bool,
    /// Races between lanes of one warp.
    pub lane_race: bool,
    pub barrier: bool,
    pub shuffle: bool,
    pub resource: bool,
}

impl Default for Checks {
    fn default() -> Self {
        Checks {
            bounds: true,
            freed: true,
            misaligned: true,
            uninitialised: true,
            registers: true,
            in_flight: true,
            race: true,
            lane_race: true,
            barrier: true,
            shuffle: true,
            resource: true,
        }
    }
}

impl Checks {
    /// No checks: for speed, and for a baseline.
    pub fn none() -> Checks {
        Checks {
            bounds: false,
            freed: false,
            misaligned: false,
            uninitialised: false,
            registers: false,
            in_flight: false,
            race: false,
            lane_race: false,
            barrier: false,
            shuffle: false,
            resource: false,
        }
    }

    /// The names that [`Checks::set`] takes.
    pub const NAMES: [&'static str; 11] = [
        "bounds",
        "freed",
        "misaligned",
        "uninitialised",
        "registers",
        "in-flight",
        "race",
        "lane-race",
        "barrier",
        "shuffle",
        "resource",
    ];

    /// Turns one check on or off by what [`Finding::detector`] calls it; false when there is no such check.
    pub fn set_detector(&mut self, name: &str, on: bool) -> bool {
        // Races of lanes and of warps are one kind of finding.
        if name == "race" {
            self.lane_race = on;
        }
        self.set(name, on)
    }

    /// Turns one check on or off by name; false when there is no such check.
    pub fn set(&mut self, name: &str, on: bool) -> bool {
        let field = match name {
            "bounds" => &mut self.bounds,
            "freed" => &mut self.freed,
            "misaligned" => &mut self.misaligned,
            "uninitialised" => &mut self.uninitialised,
            "registers" => &mut self.registers,
            "in-flight" => &mut self.in_flight,
            "race" => &mut self.race,
            "lane-race" => &mut self.lane_race,
            "barrier" => &mut self.barrier,
            "shuffle" => &mut self.shuffle,
            "resource" => &mut self.resource,
            _ => return false,
        };
        *field = on;
        true
    }

    /// Whether findings of this kind are reported.
    pub fn wants(&self, kind: FindingKind) -> bool {
        match kind {
            FindingKind::Bounds | FindingKind::ReadOnly => self.bounds,
            FindingKind::Freed => self.freed,
            FindingKind::Misaligned => self.misaligned,
            FindingKind::Uninitialised => self.uninitialised || self.registers,
            FindingKind::InFlight => self.in_flight,
            FindingKind::Race => self.race || self.lane_race,
            FindingKind::Barrier => self.barrier,
            FindingKind::Shuffle => self.shuffle,
            FindingKind::Resource => self.resource,
            FindingKind::Deadlock | FindingKind::Trap | FindingKind::Module => true,
        }
    }
}

/// The order in which the warps of a block are picked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Order {
    /// Warp 0 runs until it blocks, then warp 1, and so on.
    Forward,
    /// The last warp first.
    Reverse,
    /// A warp at random, for a random number of instructions.
    Random(
        /// Seed.
        u64,
    ),
}

impl std::str::FromStr for Order {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "forward" => Ok(Order::Forward),
            "reverse" => Ok(Order::Reverse),
            _ => text
                .strip_prefix("random:")
                .and_then(|seed| seed.parse().ok())
                .map(Order::Random)
                .ok_or_else(|| format!("'{text}' is no order: forward, reverse or random:SEED")),
        }
    }
}
