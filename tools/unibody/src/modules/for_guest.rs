//! What of a kernel's modules goes into a guest's file system: [`ForGuest`].

use vmm::boot::input::Input;
use vmm::boot::unpack::Compression;

use super::table::Missing;
use super::wanted::Wanted;
use super::{Error, Modules, modinfo, name, text};

/// Modules for a guest.
#[derive(Debug)]
pub(crate) struct ForGuest {
    /// The kernel's release, which their folder is named after.
    pub(crate) release: String,
    /// Paths in that folder, and the modules: not packed, since not each kernel can unpack them. See: Linux, `CONFIG_MODULE_DECOMPRESS`.
    pub(crate) files: Vec<(String, Input)>,
    /// Files beside them, by which `modprobe` finds them.
    pub(crate) tables: Vec<(&'static str, String)>,
    /// Paths of those that are loaded at the start, in that order.
    pub(crate) loaded: Vec<String>,
    /// Of those that are loaded after that.
    pub(crate) later: Vec<String>,
    /// What modules depend on, and is nowhere.
    pub(crate) missing: Vec<Missing>,
}

impl Modules {
    /// What a guest needs of them. A driver that there is no module of may be part of the kernel; if it isn't, init misses it.
    pub(crate) fn for_guest(&self, wanted: &Wanted) -> Result<ForGuest, Error> {
        let loaded = self.closure(&wanted.loaded())?;
        let later = self.closure(&wanted.loaded_later())?;
        let all = self.table.generous_closure(&wanted.all())?;
        let mut files = Vec::new();
        let mut paths = Vec::new();
        for (name, module) in &all.modules {
            files.push((name::unpacked(&module.path).to_string(), self.file(&module.path)?));
            paths.push((*name, name::unpacked(&module.path)));
        }
        let is_there = |name: &str| paths.iter().any(|(there, _)| *there == name);
        let tables = vec![
            (text::DEPENDENCIES, text::dependencies(&self.table, &paths)?),
            (text::ALIASES, text::aliases(&self.table, is_there)),
            (text::SOFT, text::soft_dependencies(&self.table, is_there)),
            (text::BUILTIN, self.builtin.clone()),
        ];
        let path = |module: &super::table::Module| name::unpacked(&module.path).to_string();
        let is_loaded = |name: &str| loaded.modules.iter().any(|(before, _)| *before == name);
        let later = later.modules.iter().filter(|(name, _)| !is_loaded(name));
        let missing = all.missing.into_iter().filter(|missing| missing.for_module.is_some());
        Ok(ForGuest {
            release: self.release.clone(),
            tables,
            later: later.map(|(_, module)| path(module)).collect(),
            loaded: loaded.modules.iter().map(|(_, module)| path(module)).collect(),
            missing: missing.collect(),
            files,
        })
    }

    /// A module's file; in memory if it is packed.
    fn file(&self, path: &str) -> Result<Input, Error> {
        let path = self.folder.join(path);
        let input = modinfo::open(&path)?;
        let head = input.head(6).map_err(Error::read(&path))?;
        if Compression::detect(&head).is_none() {
            return Ok(input);
        }
        Ok(Input::bytes(modinfo::unpack(&path, input)?))
    }
}
