//! Functions that kernels declare and the driver supplies: `printf` and `assert` of CUDA C++ ("Formatted Output",
//! "Assertion" in the programming guide), which arrive as calls of `vprintf` and `__assertfail`.

use super::Cx;
use super::warp::{Warp, lanes};
use crate::check::FindingKind;
use crate::ir::{Call, Instruction};
use crate::memory::classify;
use crate::types::Space;
use std::ffi::{CString, c_char, c_int};
use std::io::Write;

/// A function that the driver supplies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DriverFunction {
    /// `int vprintf(const char *format, void *arguments)`: the number of arguments, or -1.
    Vprintf,
    /// `void __assertfail(const char *condition, const char *file, unsigned line, const char *function, size_t)`.
    AssertFail,
}

/// Longest text that is read or printed at once.
const MAX_TEXT: usize = 1 << 16;

impl DriverFunction {
    /// The function of a name.
    pub fn named(name: &str) -> Option<DriverFunction> {
        match name {
            "vprintf" => Some(DriverFunction::Vprintf),
            "__assertfail" => Some(DriverFunction::AssertFail),
            _ => None,
        }
    }

    /// Calls it for the lanes of a mask. `local` is where the caller's local memory begins.
    pub fn call(self, cx: &mut Cx, w: &mut Warp, i: &Instruction, call: &Call, local: u32, m: u32) {
        for l in lanes(m) {
            let argument = |w: &mut Warp, k: usize| {
                let (offset, bytes) = call.args.get(k).copied().unwrap_or((0, 0));
                let mut word = [0; 8];
                let n = bytes.min(8) as usize;
                if let Some(from) = w.local(l as u32, u64::from(local + offset), n as u64) {
                    word[..n].copy_from_slice(from);
                }
                u64::from_le_bytes(word)
            };
            let args: [u64; 4] = std::array::from_fn(|k| argument(w, k));
            match self {
                DriverFunction::Vprintf => {
                    let result = match text(cx, w, l, args[0]).map(|format| print(cx, w, l, &format, args[1]))
                    {
                        Some(Some((printed, count))) => {
                            // A closed stdout is the host's choice.
                            let _ = std::io::stdout().lock().write_all(&printed);
                            let _ = std::io::stdout().lock().flush();
                            count
                        }
                        _ => {
                            cx.report(w, i, l as u32, FindingKind::Bounds, Some(args[0]), || {
                                "printf: the format or an argument is not readable, or the format is wrong"
                                    .into()
                            });
                            -1
                        }
                    };
                    if let Some(&(offset, 4)) = call.returns.first()
                        && let Some(to) = w.local(l as u32, u64::from(local + offset), 4)
                    {
                        to.copy_from_slice(&result.to_le_bytes());
                        w.mark_local(l as u32, u64::from(local + offset), 4, true);
                    }
                }
                DriverFunction::AssertFail => {
                    let say = |w: &mut Warp, at: u64| {
                        text(cx, w, l, at).map_or("?".into(), |t| String::from_utf8_lossy(&t).into_owned())
                    };
                    let [condition, file, function] = [0, 1, 3].map(|k| say(w, args[k]));
                    cx.report(w, i, l as u32, FindingKind::Trap, None, || {
                        format!("assertion '{condition}' failed at {file}:{} in {function}", args[2] as u32)
                    });
                }
            }
        }
    }
}

/// Bytes at a generic address of global or local memory.
fn bytes(cx: &Cx, w: &mut Warp, lane: usize, address: u64, n: usize) -> Option<Vec<u8>> {
    match classify(address) {
        (Space::Local, offset) => w.local(lane as u32, offset, n as u64).map(|b| b.to_vec()),
        (Space::Global, at) => {
            let mut out = vec![0; n];
            cx.launch.memory.read(at, &mut out).ok().map(|()| out)
        }
        _ => None,
    }
}

/// The text at a generic address, up to its zero byte.
fn text(cx: &Cx, w: &mut Warp, lane: usize, address: u64) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    while out.len() < MAX_TEXT {
        match bytes(cx, w, lane, address + out.len() as u64, 1)?[0] {
            0 => return Some(out),
            byte => out.push(byte),
        }
    }
    None
}

/// A conversion of a format.
struct Conversion {
    /// Flags, width and precision, with `*` replaced by numbers.
    head: String,
    /// Whether an integer is 64 bits wide.
    wide: bool,
    /// The letter.
    letter: u8,
}

/// What `printf` prints, and how many arguments it took; `None` when something is not readable or not allowed.
fn print(cx: &Cx, w: &mut Warp, lane: usize, format: &[u8], arguments: u64) -> Option<(Vec<u8>, i32)> {
    let (mut out, mut at, mut count) = (Vec::new(), arguments, 0);
    // Arguments lie one after another, each aligned to its size.
    let mut next = |w: &mut Warp, size: u64| {
        at = at.next_multiple_of(size);
        let word = bytes(cx, w, lane, at, size as usize)?;
        at += size;
        count += 1;
        let mut all = [0; 8];
        all[..word.len()].copy_from_slice(&word);
        Some(u64::from_le_bytes(all))
    };
    let mut rest = format.iter().copied().peekable();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let mut c = Conversion { head: "%".into(), wide: false, letter: 0 };
        loop {
            let byte = rest.next()?;
            match byte {
                b'-' | b'+' | b' ' | b'#' | b'.' | b'0'..=b'9' => c.head.push(byte as char),
                b'*' => c.head += &(next(w, 4)? as i32).to_string(),
                b'h' => {}
                b'l' | b'z' | b'j' | b't' => c.wide = true,
                _ => {
                    c.letter = byte;
                    break;
                }
            }
        }
        if c.letter == b'%' {
            out.push(b'%');
            continue;
        }
        match c.letter {
            b'd' | b'i' | b'u' | b'x' | b'X' | b'o' | b'c' => {
                let value = if c.wide { next(w, 8)? } else { next(w, 4)? };
                out.extend(c.integer(value)?);
            }
            b'p' => out.extend(format!("{:#x}", next(w, 8)?).bytes()),
            b'e' | b'E' | b'f' | b'F' | b'g' | b'G' | b'a' | b'A' => {
                out.extend(c.real(f64::from_bits(next(w, 8)?))?)
            }
            b's' => {
                let from = next(w, 8)?;
                out.extend(c.string(text(cx, w, lane, from)?)?);
            }
            _ => return None,
        }
        if out.len() > MAX_TEXT {
            return None;
        }
    }
    Some((out, count))
}

unsafe extern "C" {
    fn snprintf(buffer: *mut c_char, size: usize, format: *const c_char, ...) -> c_int;
}

impl Conversion {
    fn integer(&self, value: u64) -> Option<Vec<u8>> {
        if self.letter == b'c' {
            return self.run("c", |b, n, f| {
                // SAFETY: `run` gives `n` writable bytes and a format of one `%c`, which takes an int.
                unsafe { snprintf(b, n, f, value as c_int) }
            });
        }
        let value = if self.wide || !matches!(self.letter, b'd' | b'i') {
            value
        } else {
            i64::from(value as i32) as u64
        };
        self.run(&format!("ll{}", self.letter as char), |b, n, f| {
            // SAFETY: as above, with a conversion that takes a long long.
            unsafe { snprintf(b, n, f, value) }
        })
    }

    fn real(&self, value: f64) -> Option<Vec<u8>> {
        self.run(&(self.letter as char).to_string(), |b, n, f| {
            // SAFETY: as above, with a conversion that takes a double.
            unsafe { snprintf(b, n, f, value) }
        })
    }

    fn string(&self, text: Vec<u8>) -> Option<Vec<u8>> {
        let text = CString::new(text).ok()?;
        self.run("s", |b, n, f| {
            // SAFETY: as above, with `%s` and a string that ends in a zero byte.
            unsafe { snprintf(b, n, f, text.as_ptr()) }
        })
    }

    /// Formats one value, as C does.
    fn run(&self, tail: &str, f: impl Fn(*mut c_char, usize, *const c_char) -> c_int) -> Option<Vec<u8>> {
        let format = CString::new(format!("{}{tail}", self.head)).ok()?;
        let mut buffer = vec![0u8; 512];
        loop {
            let needed =
                usize::try_from(f(buffer.as_mut_ptr().cast(), buffer.len(), format.as_ptr())).ok()?;
            if needed < buffer.len() {
                buffer.truncate(needed);
                return Some(buffer);
            }
            if needed > MAX_TEXT {
                return None;
            }
            buffer.resize(needed + 1, 0);
        }
    }
}
