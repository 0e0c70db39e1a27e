//! Several files as one output: they are written to a folder beside, and moved into place when all are there.

use anyhow::{Context, Result, anyhow};
use selftok::atomic;
use std::fs;
use std::path::{Path, PathBuf};

/// A folder under way. Dropped before [`Staging::finish`], it leaves nothing.
pub struct Staging {
    target: PathBuf,
    beside: Option<PathBuf>,
    names: Vec<String>,
}

impl Staging {
    /// Prepares to fill `target`, which need not exist; its parent must.
    ///
    /// Errors: the parent does not exist, the target is a file, or there is no permission to write.
    pub fn new(target: &Path) -> Result<Staging> {
        let shown = target.display();
        if target.exists() && !target.is_dir() {
            return Err(anyhow!("{shown}: is a file; name a folder for several pictures"));
        }
        // Inside a folder that exists: its parent may not be writable, or another file system.
        let place = if target.is_dir() {
            target.to_owned()
        } else {
            match target.parent() {
                Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
                _ => PathBuf::from("."),
            }
        };
        if !place.is_dir() {
            return Err(anyhow!("{shown}: the folder {} does not exist; create it first", place.display()));
        }
        let ((), beside) = atomic::create_beside(&place, "selftok".as_ref(), |path| fs::create_dir(path))
            .with_context(|| format!("{shown}: cannot be written there"))?;
        Ok(Staging { target: target.to_owned(), beside: Some(beside), names: Vec::new() })
    }

    /// Where to write the file that will be called `name`.
    pub fn file(&mut self, name: String) -> Result<PathBuf> {
        let beside = self.beside.as_deref().context("the folder is finished")?;
        let path = beside.join(&name);
        self.names.push(name);
        Ok(path)
    }

    /// Moves all into place; a file of the same name is replaced. Gives their paths.
    ///
    /// Errors: what the system says; the message has the path.
    pub fn finish(mut self) -> Result<Vec<PathBuf>> {
        let beside = self.beside.as_deref().context("the folder is finished")?;
        let paths: Vec<PathBuf> = self.names.iter().map(|name| self.target.join(name)).collect();
        let failed = |path: &Path| format!("{}: cannot be moved into place", path.display());
        if self.target.is_dir() {
            for (name, path) in self.names.iter().zip(&paths) {
                fs::rename(beside.join(name), path).with_context(|| failed(path))?;
            }
        } else {
            fs::rename(beside, &self.target).with_context(|| failed(&self.target))?;
            self.beside = None;
        }
        Ok(paths)
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if let Some(beside) = self.beside.take() {
            // The error that brought us here is the one worth telling.
            let _ = fs::remove_dir_all(beside);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn nothing_appears_before_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("out");
        for existing in [false, true] {
            let mut staging = Staging::new(&target).unwrap();
            fs::write(staging.file("a.png".into()).unwrap(), "a").unwrap();
            assert!(!target.join("a.png").exists() || existing);
            assert_eq!(staging.finish().unwrap(), [target.join("a.png")]);
            assert_eq!((names(dir.path()), names(&target)), (vec!["out".into()], vec!["a.png".into()]));
        }
    }

    #[test]
    fn given_up_it_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let mut staging = Staging::new(&dir.path().join("out")).unwrap();
        fs::write(staging.file("a.png".into()).unwrap(), "a").unwrap();
        drop(staging);
        assert_eq!(names(dir.path()), [] as [&str; 0]);
    }

    #[test]
    fn a_file_or_a_missing_parent_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("file"), "x").unwrap();
        assert!(Staging::new(&dir.path().join("file")).is_err());
        assert!(Staging::new(&dir.path().join("no/out")).is_err());
    }
}
