//! Where a model is looked for when none is named.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::files::is_checkpoint;
use selftok_loader::{Error, Result};

/// The four places, as given by the environment or by a test.
#[derive(Debug, Clone, Default)]
pub struct SearchPath {
    /// `$SELFTOK_MODEL`: if set, it alone counts.
    pub variable: Option<PathBuf>,
    /// `../share/selftok` beside the folder of the binary.
    pub share: Option<PathBuf>,
    /// `selftok` in the user's data folder.
    pub data: Option<PathBuf>,
    /// `models/mini` in the source checkout.
    pub source: Option<PathBuf>,
}

impl SearchPath {
    /// The places of this process.
    pub fn of_process() -> Self {
        Self::from_parts(|name| std::env::var_os(name), std::env::current_exe().ok().as_deref())
    }

    /// The places that this environment and this binary give.
    pub fn from_parts(variable: impl Fn(&str) -> Option<OsString>, exe: Option<&Path>) -> Self {
        let path = |name: &str| variable(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        let home = || path("HOME");
        let data = if cfg!(windows) {
            path("APPDATA")
        } else if cfg!(target_os = "macos") {
            home().map(|h| h.join("Library/Application Support"))
        } else {
            path("XDG_DATA_HOME").or_else(|| home().map(|h| h.join(".local/share")))
        };
        SearchPath {
            variable: path("SELFTOK_MODEL"),
            share: exe.and_then(Path::parent).and_then(Path::parent).map(|p| p.join("share/selftok")),
            data: data.map(|d| d.join("selftok")),
            source: Path::new(env!("CARGO_MANIFEST_DIR")).parent().map(|p| p.join("models/mini")),
        }
    }

    /// The first place that has a model. A `$SELFTOK_MODEL` that does not exist is an error, not a reason to look
    /// elsewhere.
    ///
    /// Errors: none has one; the message lists them all.
    pub fn find(&self) -> Result<PathBuf> {
        if let Some(path) = &self.variable {
            if path.exists() {
                return Ok(path.clone());
            }
            let what = format!("$SELFTOK_MODEL names {}, which does not exist", path.display());
            return Err(Error::NoModel { what });
        }
        let places = [&self.share, &self.data, &self.source];
        if let Some(found) = places.into_iter().flatten().find(|p| holds_model(p)) {
            return Ok(found.clone());
        }
        let show =
            |p: &Option<PathBuf>| p.as_ref().map_or("(not known here)".into(), |p| p.display().to_string());
        Err(Error::NoModel {
            what: format!(
                "no model was named, and none is in the usual places; name one with --model, or put it in one of:\
                 \n  $SELFTOK_MODEL (not set)\n  {} (beside the binary)\n  {} (your data folder)\n  {} (the source checkout)",
                show(&self.share),
                show(&self.data),
                show(&self.source)
            ),
        })
    }
}

/// A folder counts if it has a checkpoint, so that an empty or foreign folder does not stop the search.
fn holds_model(folder: &Path) -> bool {
    let Ok(items) = std::fs::read_dir(folder) else { return false };
    items.flatten().any(|item| {
        let name = item.file_name();
        let name = name.to_string_lossy();
        is_checkpoint(&name, "tokenizer") || is_checkpoint(&name, "renderer")
    })
}
