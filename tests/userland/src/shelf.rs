//! [`Shelf`]: a folder in which what was built is kept, so that only the first test waits for it.

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// A folder for the tests of this user, which anyone may enter.
pub fn folder() -> Result<PathBuf> {
    let user = fs::metadata("/proc/self").context("there is no /proc")?.uid();
    let folder = std::env::temp_dir().join(format!("unibody-tests-{user}"));
    let cannot_use = || format!("cannot use '{}'", folder.display());
    fs::create_dir_all(&folder).with_context(cannot_use)?;
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).with_context(cannot_use)?;
    Ok(folder)
}

/// A folder of things that were built.
#[derive(Clone, Debug)]
pub struct Shelf {
    folder: PathBuf,
}

impl Shelf {
    /// A shelf in `folder`, which is made if it is not there.
    pub fn new(folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder)
            .with_context(|| format!("cannot make '{}'", folder.display()))?;
        Ok(Self { folder: folder.to_path_buf() })
    }

    /// The folder `name`, which `build` fills, unless another process or an earlier run has.
    ///
    /// The name has to say all that the content depends on. Half of it is never seen.
    pub fn get(&self, name: &str, build: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
        let folder = self.folder.join(name);
        let lock = File::create(self.folder.join(format!("{name}.lock")))?;
        lock.lock().with_context(|| format!("cannot wait for who builds '{name}'"))?;
        if !folder.is_dir() {
            let partial = self.folder.join(format!("{name}.partial"));
            if partial.exists() {
                fs::remove_dir_all(&partial)?;
            }
            fs::create_dir(&partial)?;
            build(&partial).with_context(|| format!("cannot build '{name}'"))?;
            fs::rename(&partial, &folder)?;
        }
        Ok(folder)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use anyhow::bail;

    use super::Shelf;

    #[test]
    fn what_is_there_is_not_built_again_and_half_of_it_is_not_there() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let shelf = Shelf::new(folder.path()).expect("it is ours");
        let broken = shelf.get("thing", |folder| {
            fs::write(folder.join("half"), "")?;
            bail!("no space")
        });
        assert!(format!("{:#}", broken.unwrap_err()).contains("no space"));
        let built = shelf.get("thing", |folder| Ok(fs::write(folder.join("file"), "content")?));
        let built = built.expect("now it works");
        assert!(!built.join("half").exists());
        let again = shelf.get("thing", |_| bail!("not asked")).expect("it is there");
        assert_eq!(fs::read_to_string(again.join("file")).expect("it is kept"), "content");
    }
}
