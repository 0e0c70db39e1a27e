//! NVRTC, the run-time compiler: seven functions of `libnvrtc`, loaded by path, so that building this crate needs no CUDA.

use std::ffi::{CString, c_char, c_int, c_void};
use std::path::Path;
use std::ptr;

use libloading::{Library, Symbol};

use super::Error;

type Program = *mut c_void;

/// A loaded compiler.
pub struct Nvrtc {
    library: Library,
    path: std::path::PathBuf,
}

impl Nvrtc {
    /// Loads the library at `path`.
    pub fn load(path: &Path) -> Result<Self, Error> {
        // SAFETY: libnvrtc's initialisers set up the compiler's own state and require nothing of the caller.
        let library = unsafe { Library::new(path) };
        let library = library.map_err(|source| Error::Library { path: path.into(), source })?;
        Ok(Self { library, path: path.into() })
    }

    /// A function of the library.
    ///
    /// # Safety
    /// `F` must be the type that nvrtc.h declares for `name`.
    unsafe fn function<F>(&self, name: &str) -> Result<Symbol<'_, F>, Error> {
        // SAFETY: the caller promises the type.
        unsafe { self.library.get(name.as_bytes()) }
            .map_err(|source| Error::Library { path: self.path.clone(), source })
    }

    /// Compiles `source` to PTX. `headers` are (name, text), found by `#include "name"`.
    pub fn compile(
        &self,
        name: &str,
        source: &str,
        headers: &[(&str, &str)],
        options: &[String],
    ) -> Result<String, Error> {
        let c_string = |text: &str| {
            CString::new(text).map_err(|_| Error::Unexpected {
                name: name.to_owned(),
                message: "a NUL in a source text".to_owned(),
            })
        };
        let c_name = c_string(name)?;
        let c_source = c_string(source)?;
        let header_names = headers.iter().map(|h| c_string(h.0)).collect::<Result<Vec<_>, _>>()?;
        let header_texts = headers.iter().map(|h| c_string(h.1)).collect::<Result<Vec<_>, _>>()?;
        let options = options.iter().map(|o| c_string(o)).collect::<Result<Vec<_>, _>>()?;
        let pointers = |strings: &[CString]| strings.iter().map(|s| s.as_ptr()).collect::<Vec<_>>();
        let (name_pointers, text_pointers) = (pointers(&header_names), pointers(&header_texts));
        let option_pointers = pointers(&options);

        type Create = unsafe extern "C" fn(
            *mut Program,
            *const c_char,
            *const c_char,
            c_int,
            *const *const c_char,
            *const *const c_char,
        ) -> c_int;
        type Compile = unsafe extern "C" fn(Program, c_int, *const *const c_char) -> c_int;
        type Destroy = unsafe extern "C" fn(*mut Program) -> c_int;

        // SAFETY: the types above are those of nvrtc.h 12.9.
        let (create, compile, destroy) = unsafe {
            (
                self.function::<Create>("nvrtcCreateProgram")?,
                self.function::<Compile>("nvrtcCompileProgram")?,
                self.function::<Destroy>("nvrtcDestroyProgram")?,
            )
        };
        let refused = |code: c_int, log: String| Error::Compile { name: name.to_owned(), code, log };

        let mut program: Program = ptr::null_mut();
        // SAFETY: all strings are NUL-terminated and outlive the call; both arrays have `headers.len()` pointers.
        let code = unsafe {
            create(
                &mut program,
                c_source.as_ptr(),
                c_name.as_ptr(),
                headers.len() as c_int,
                text_pointers.as_ptr(),
                name_pointers.as_ptr(),
            )
        };
        if code != 0 {
            return Err(refused(code, String::new()));
        }
        // SAFETY: `program` was created above; the array has `options.len()` pointers to NUL-terminated strings.
        let code = unsafe { compile(program, options.len() as c_int, option_pointers.as_ptr()) };
        let result = if code == 0 {
            self.text(program, "nvrtcGetPTXSize", "nvrtcGetPTX")
                .and_then(|ptx| ptx.map_err(|c| refused(c, String::new())))
        } else {
            let log = self.text(program, "nvrtcGetProgramLogSize", "nvrtcGetProgramLog");
            Err(refused(code, log.ok().and_then(Result::ok).unwrap_or_default()))
        };
        // SAFETY: `program` was created above and is not used again.
        unsafe { destroy(&mut program) };
        result
    }

    /// A text of the program, by the two functions that give its size and its bytes; the inner error is NVRTC's code.
    fn text(&self, program: Program, size: &str, get: &str) -> Result<Result<String, c_int>, Error> {
        type Size = unsafe extern "C" fn(Program, *mut usize) -> c_int;
        type Get = unsafe extern "C" fn(Program, *mut c_char) -> c_int;
        // SAFETY: every pair of size and text in nvrtc.h has these two types.
        let (size, get) = unsafe { (self.function::<Size>(size)?, self.function::<Get>(get)?) };
        let mut bytes = 0;
        // SAFETY: `program` is alive and `bytes` is a place for the answer.
        let code = unsafe { size(program, &mut bytes) };
        if code != 0 {
            return Ok(Err(code));
        }
        let mut text = vec![0_u8; bytes];
        // SAFETY: `text` has the size that NVRTC asked for.
        let code = unsafe { get(program, text.as_mut_ptr().cast()) };
        if code != 0 {
            return Ok(Err(code));
        }
        let end = text.iter().position(|&b| b == 0).unwrap_or(text.len());
        text.truncate(end);
        Ok(Ok(String::from_utf8_lossy(&text).into_owned()))
    }
}
