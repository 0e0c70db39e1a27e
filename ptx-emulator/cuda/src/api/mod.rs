//! The entry points, by family. Each is safe Rust over the pointer wrappers of [`crate::abi`] and passes the gate
//! [`crate::driver::call`].

/// Defines entry points: `fn name(driver, arguments…) { … }`, or `fn name | twin(…)`, where the twin is the symbol
/// whose default stream is the thread's own.
macro_rules! entry {
    ($(#[$doc:meta])* fn $name:ident | $twin:ident ($d:ident $(, $a:ident: $t:ty)* $(,)?) $body:block) => {
        entry! { $(#[$doc])* fn $name($d $(, $a: $t)*) $body }
        #[unsafe(no_mangle)]
        extern "C" fn $twin($($a: $t),*) -> u32 {
            $crate::driver::per_thread_default(|| $name($($a),*))
        }
    };
    ($(#[$doc:meta])* fn $name:ident ($d:ident $(, $a:ident: $t:ty)* $(,)?) $body:block) => {
        $(#[$doc])*
        #[unsafe(no_mangle)]
        #[allow(clippy::too_many_arguments)]
        extern "C" fn $name($($a: $t),*) -> u32 {
            $crate::driver::call(stringify!($name), |$d: &mut $crate::driver::Held| -> $crate::driver::Outcome { $body })
        }
    };
}

mod context;
mod device;
mod event;
mod graph;
mod launch;
mod library;
mod memcpy;
mod memory;
mod module;
mod occupancy;
mod pinned;
mod pool;
mod process;
mod stream;
mod tensor_map;
mod unsupported;
