//! What depends on what: [`Table`], and of some modules all that they need ([`Table::closure`]).

use std::collections::{BTreeMap, BTreeSet};

use super::{Error, name};

/// How far it is looked at what modules would like to have that others would like to have.
const WISHES_OF_WISHES: usize = 8;

/// A module that there is a file of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Module {
    /// Its file's path in the folder of modules.
    pub(crate) path: String,
    /// The modules that have to be loaded before it.
    pub(crate) depends: Vec<String>,
}

/// Names are canonical in all of it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Table {
    pub(super) modules: BTreeMap<String, Module>,
    /// Other names, or patterns of them, by which the kernel asks for modules, and whose they are.
    pub(super) aliases: Vec<(String, String)>,
    /// Names or aliases that a module would like to have: it loads without.
    pub(super) soft: BTreeMap<String, BTreeSet<String>>,
    builtin: BTreeSet<String>,
}

/// A module that is neither in a file nor part of the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Missing {
    /// Its name.
    pub(crate) name: String,
    /// The module that depends on it; none if it was asked for itself.
    pub(crate) for_module: Option<String>,
}

/// Modules, and all that they depend on.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Closure<'a> {
    /// Names and modules; each after what it depends on.
    pub(crate) modules: Vec<(&'a str, &'a Module)>,
    /// What there is not.
    pub(crate) missing: Vec<Missing>,
}

/// A module on the way to it, and how many of its dependencies were looked at.
struct Step<'a> {
    name: &'a str,
    module: &'a Module,
    next: usize,
}

impl Table {
    /// Adds a module; the first of a name stays.
    pub(super) fn add(&mut self, name: String, module: Module) -> bool {
        let is_new = !self.modules.contains_key(&name);
        if is_new {
            self.modules.insert(name, module);
        }
        is_new
    }

    /// Says which modules are part of the kernel.
    pub(super) fn set_builtin(&mut self, names: impl IntoIterator<Item = String>) {
        self.builtin = names.into_iter().collect();
    }

    fn find(&self, name: &str) -> Option<(&str, &Module)> {
        self.modules.get_key_value(name).map(|(name, module)| (name.as_str(), module))
    }

    /// The modules of these names and all that they depend on. What is part of the kernel is left out.
    pub(super) fn closure(&self, names: &[&str]) -> Result<Closure<'_>, Error> {
        let mut closure = Closure::default();
        let mut seen = BTreeSet::new();
        for wanted in names {
            let canonical = name::canonical(wanted).unwrap_or_else(|| (*wanted).to_string());
            self.follow(&canonical, None, &mut seen, &mut closure)?;
        }
        Ok(closure)
    }

    /// The same, and what those modules would like to have, as far as there is such.
    pub(super) fn generous_closure(&self, names: &[&str]) -> Result<Closure<'_>, Error> {
        let mut names: Vec<&str> = names.to_vec();
        let mut closure = self.closure(&names)?;
        for _ in 0..WISHES_OF_WISHES {
            let has = |name: &str| closure.modules.iter().any(|(there, _)| *there == name);
            let wishes = closure.modules.iter().filter_map(|(name, _)| self.soft.get(*name));
            let more: BTreeSet<&str> = wishes
                .flatten()
                .flat_map(|wish| self.called(wish))
                .filter(|name| !has(name))
                .collect();
            if more.is_empty() {
                break;
            }
            names.extend(more);
            closure = self.closure(&names)?;
        }
        Ok(closure)
    }

    /// The modules that have this name or alias.
    fn called(&self, wanted: &str) -> Vec<&str> {
        let canonical = name::canonical(wanted).unwrap_or_default();
        match self.find(&canonical) {
            Some((name, _)) => vec![name],
            None if self.builtin.contains(&canonical) => Vec::new(),
            None => {
                let of_alias = self.aliases.iter().filter(|(alias, _)| alias == wanted);
                of_alias.filter_map(|(_, name)| Some(self.find(name)?.0)).collect()
            }
        }
    }

    /// Goes from a module down to what it depends on: without recursion, for a chain may be as long as a table.
    fn follow<'a>(
        &'a self,
        name: &str,
        for_module: Option<&str>,
        seen: &mut BTreeSet<&'a str>,
        closure: &mut Closure<'a>,
    ) -> Result<(), Error> {
        let mut way: Vec<Step<'a>> = Vec::new();
        let mut on_way: BTreeSet<&str> = BTreeSet::new();
        let mut entered = self.enter(name, for_module, seen, closure);
        loop {
            if let Some(step) = entered.take() {
                seen.insert(step.name);
                on_way.insert(step.name);
                way.push(step);
            }
            let Some(step) = way.last_mut() else { return Ok(()) };
            let Some(dependency) = step.module.depends.get(step.next) else {
                closure.modules.push((step.name, step.module));
                on_way.remove(step.name);
                way.pop();
                continue;
            };
            step.next += 1;
            if on_way.contains(dependency.as_str()) {
                let from = way.iter().skip_while(|step| step.name != dependency);
                let names: Vec<&str> = from.map(|step| step.name).take(8).collect();
                return Err(Error::Circle(names.join(", ")));
            }
            let for_module = step.name;
            entered = self.enter(dependency, Some(for_module), seen, closure);
        }
    }

    /// A module that was not seen before. Takes note of one that is nowhere.
    fn enter<'a>(
        &'a self,
        name: &str,
        for_module: Option<&str>,
        seen: &BTreeSet<&str>,
        closure: &mut Closure<'a>,
    ) -> Option<Step<'a>> {
        let Some((name, module)) = self.find(name) else {
            let missing = Missing { name: name.into(), for_module: for_module.map(str::to_string) };
            if !self.builtin.contains(name) && !closure.missing.contains(&missing) {
                closure.missing.push(missing);
            }
            return None;
        };
        (!seen.contains(name)).then_some(Step { name, module, next: 0 })
    }
}

#[cfg(test)]
#[path = "table_test.rs"]
mod table_test;
