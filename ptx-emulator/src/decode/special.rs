//! Special registers: a fixed table of planes that a warp fills once, before its first instruction.

use crate::ir::{Clock, Slot};

macro_rules! specials {
    ($($name:ident $text:literal $wide:literal;)*) => {
        /// Special registers that keep their value for the life of a warp.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[allow(missing_docs)]
        pub enum Special { $($name),* }

        impl Special {
            /// All of them.
            pub const ALL: &[Special] = &[$(Special::$name),*];

            /// The name in PTX.
            pub fn text(self) -> &'static str {
                match self { $(Special::$name => $text),* }
            }

            /// Whether it has 64 bits.
            pub fn wide(self) -> bool {
                match self { $(Special::$name => $wide),* }
            }
        }
    };
}

specials! {
    TidX "%tid.x" false; TidY "%tid.y" false; TidZ "%tid.z" false;
    NtidX "%ntid.x" false; NtidY "%ntid.y" false; NtidZ "%ntid.z" false;
    CtaidX "%ctaid.x" false; CtaidY "%ctaid.y" false; CtaidZ "%ctaid.z" false;
    NctaidX "%nctaid.x" false; NctaidY "%nctaid.y" false; NctaidZ "%nctaid.z" false;
    LaneId "%laneid" false; WarpId "%warpid" false; NwarpId "%nwarpid" false;
    SmId "%smid" false; NsmId "%nsmid" false;
    LaneMaskEq "%lanemask_eq" false; LaneMaskLe "%lanemask_le" false; LaneMaskLt "%lanemask_lt" false;
    LaneMaskGe "%lanemask_ge" false; LaneMaskGt "%lanemask_gt" false;
    ClusterIdX "%clusterid.x" false; ClusterIdY "%clusterid.y" false; ClusterIdZ "%clusterid.z" false;
    NclusterIdX "%nclusterid.x" false; NclusterIdY "%nclusterid.y" false; NclusterIdZ "%nclusterid.z" false;
    ClusterCtaidX "%cluster_ctaid.x" false; ClusterCtaidY "%cluster_ctaid.y" false;
    ClusterCtaidZ "%cluster_ctaid.z" false;
    ClusterNctaidX "%cluster_nctaid.x" false; ClusterNctaidY "%cluster_nctaid.y" false;
    ClusterNctaidZ "%cluster_nctaid.z" false;
    ClusterCtarank "%cluster_ctarank" false; ClusterNctarank "%cluster_nctarank" false;
    DynamicSharedSize "%dynamic_smem_size" false; TotalSharedSize "%total_smem_size" false;
    EnvReg1 "%envreg1" false; EnvReg2 "%envreg2" false;
    // Not in PTX: where the dynamic shared memory of this kernel begins, for `.extern .shared` arrays.
    DynamicShared32 "" false;
    GridId "%gridid" true;
    DynamicShared64 "" true;
}

impl Special {
    /// First plane of this register.
    pub fn plane(self) -> u32 {
        let before = &Special::ALL[..self as usize];
        before.iter().map(|s| if s.wide() { 2 } else { 1 }).sum()
    }

    /// Planes of all special registers.
    pub fn planes() -> u32 {
        Special::ALL.iter().map(|s| if s.wide() { 2 } else { 1 }).sum()
    }

    /// Its slot.
    pub fn slot(self) -> Slot {
        Slot::special(self.plane())
    }

    /// The register that a name in PTX means.
    pub fn from_text(text: &str) -> Option<Special> {
        if text.is_empty() {
            return None;
        }
        Special::ALL.iter().copied().find(|s| s.text() == text)
    }
}

/// The clock that a name in PTX means: these are read anew by each instruction.
pub fn clock(text: &str) -> Option<(Clock, u32)> {
    Some(match text {
        "%clock" => (Clock::Low, 4),
        "%clock_hi" => (Clock::High, 4),
        "%clock64" => (Clock::Full, 8),
        "%globaltimer" => (Clock::GlobalTimer, 8),
        "%globaltimer_lo" => (Clock::GlobalTimerLow, 4),
        "%globaltimer_hi" => (Clock::GlobalTimerHigh, 4),
        _ => return None,
    })
}
