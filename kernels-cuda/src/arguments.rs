//! Kernel arguments as typed structs, packed as a driver wants them.
//!
//! PTX lays parameters out one after the other, each aligned to its own size, as C does. So a struct that lists them in order is
//! both the documentation and the packing, and a test holds every struct against the `.param` lines of the kernels it is for.
//! The bytes are what `cuLaunchKernel` takes behind `CU_LAUNCH_PARAM_BUFFER_POINTER`.

/// One parameter of a kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parameter {
    /// The name in the source.
    pub name: &'static str,
    /// The type in PTX: `.u64`, `.u32` or `.f32`.
    pub ptx_type: &'static str,
    /// Bytes, and the alignment.
    pub size: usize,
}

/// A type that a kernel takes by value.
pub trait Argument: Copy {
    /// Its type in PTX.
    const PTX_TYPE: &'static str;
    /// Appends it to `bytes`, at its alignment.
    fn push(self, bytes: &mut Vec<u8>);
}

macro_rules! argument {
    ($type:ty, $ptx:literal) => {
        impl Argument for $type {
            const PTX_TYPE: &'static str = $ptx;
            fn push(self, bytes: &mut Vec<u8>) {
                bytes.resize(bytes.len().next_multiple_of(size_of::<Self>()), 0);
                bytes.extend_from_slice(&self.to_le_bytes());
            }
        }
    };
}

/// An address in a device's memory; 0 is null.
pub type DevicePointer = u64;

argument!(DevicePointer, ".u64");
argument!(i64, ".u64"); // NVRTC writes signed and unsigned parameters alike
argument!(i32, ".u32");
argument!(f32, ".f32");

/// The arguments of a kernel, as a struct that lists them in order.
pub trait KernelArguments {
    /// How the names of the kernels that take them begin.
    const KERNELS: &'static str;
    /// The parameters in order.
    const PARAMETERS: &'static [Parameter];

    /// The parameter block that a launch takes.
    fn pack(&self) -> Vec<u8>;

    /// Hands every argument to a launch of cudarc's, in order.
    #[cfg(feature = "cudarc")]
    fn push<'a>(&'a self, launch: &mut cudarc::driver::LaunchArgs<'a>);
}

/// Declares the arguments of the kernels whose names begin so, in order, with `PARAMETERS` and `pack`.
macro_rules! arguments {
    ($(#[$meta:meta])* $name:ident of $kernels:literal { $($(#[$field_meta:meta])* $field:ident: $type:ty,)+ }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq)]
        pub struct $name {
            $($(#[$field_meta])* pub $field: $type,)+
        }

        impl $name {
            /// The parameters in order.
            pub const PARAMETERS: &'static [$crate::Parameter] = &[$($crate::Parameter {
                name: stringify!($field),
                ptx_type: <$type as $crate::Argument>::PTX_TYPE,
                size: size_of::<$type>(),
            },)+];

            /// The parameter block that a launch takes.
            pub fn pack(&self) -> Vec<u8> {
                let mut bytes = Vec::new();
                $($crate::Argument::push(self.$field, &mut bytes);)+
                bytes
            }
        }

        impl $crate::KernelArguments for $name {
            const KERNELS: &'static str = $kernels;
            const PARAMETERS: &'static [$crate::Parameter] = $name::PARAMETERS;

            fn pack(&self) -> Vec<u8> {
                $name::pack(self)
            }

            #[cfg(feature = "cudarc")]
            fn push<'a>(&'a self, launch: &mut cudarc::driver::LaunchArgs<'a>) {
                use cudarc::driver::PushKernelArg;
                $(launch.arg(&self.$field);)+
            }
        }
    };
}

pub(crate) use arguments;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{attention, codebook, gemm, layer_norm};

    arguments! {
        /// Two words that need a gap between them.
        Gapped of "none" {
            /// Four bytes.
            small: i32,
            /// Eight bytes, at 8.
            large: DevicePointer,
            /// Four bytes, at 16.
            last: f32,
        }
    }

    #[test]
    fn arguments_are_packed_at_their_own_alignment() {
        let bytes = Gapped { small: -1, large: 0x0102_0304_0506_0708, last: 1.0 }.pack();
        assert_eq!(Gapped::PARAMETERS.iter().map(|p| p.size).collect::<Vec<_>>(), [4, 8, 4]);
        assert_eq!(bytes, [255, 255, 255, 255, 0, 0, 0, 0, 8, 7, 6, 5, 4, 3, 2, 1, 0, 0, 128, 63]);
    }

    /// The `.param` types of a kernel, in order.
    fn ptx_types(ptx: &str, entry: &str) -> Vec<String> {
        let (_, rest) = ptx.split_once(&format!(".entry {entry}(")).expect(entry);
        let (parameters, _) = rest.split_once(')').expect("the end of the parameters");
        parameters.split(',').map(|p| p.split_whitespace().nth(1).unwrap_or("").to_owned()).collect()
    }

    #[test]
    fn every_struct_lists_what_its_kernels_take() {
        fn row<A: KernelArguments>() -> (&'static str, &'static [Parameter]) {
            (A::KERNELS, A::PARAMETERS)
        }
        let rows = [
            row::<attention::Arguments>(),
            row::<codebook::MergeArguments>(),
            row::<codebook::PartialArguments>(),
            row::<gemm::Arguments>(),
            row::<layer_norm::Arguments>(),
        ];
        let of_entry = |entry: &str| {
            let fitting: Vec<_> = rows.iter().filter(|(kernels, _)| entry.starts_with(kernels)).collect();
            assert_eq!(fitting.len(), 1, "one struct for {entry}");
            fitting[0].1
        };
        for module in selftok_kernels_ptx::MODULES {
            for entry in module.entries {
                let listed: Vec<_> = of_entry(entry).iter().map(|p| p.ptx_type.to_owned()).collect();
                assert_eq!(listed, ptx_types(module.ptx, entry), "{entry}");
            }
        }
    }
}
