//! The report as a page for people: sections, each with names and values in two columns.

use indicatif::HumanBytes;

use super::module::Module;
use super::report::{CheckResult, Engine, Probe, Report};
use crate::engine::words::pace;

/// Where values begin.
const COLUMN: usize = 15;
/// Where lines of words end.
const WIDTH: usize = 80;

/// Writes the page.
pub(super) fn render(report: &Report) -> String {
    let mut page = Page(format!("unibody {}\n", report.version));
    page.section("Processor");
    match &report.processor {
        Some(processor) => {
            page.line("vendor", &processor.vendor);
            page.line("model", &processor.model);
            let (level, guest) = (processor.level, processor.guest_level);
            page.line("level", &format!("x86-64-v{level}; a guest has x86-64-v{guest}"));
            page.words("a guest has", &processor.guest_has);
            page.words("and lacks", &processor.guest_lacks);
        }
        None => page.line("", "no guest could be made to look at"),
    }
    page.section("Engines");
    report.engines.iter().for_each(|engine| page.engine(engine));
    match &report.choice {
        Some(choice) => page.line("choice", &format!("{}: {}", choice.engine, choice.reason)),
        None => page.line("choice", "none: nothing here can run a guest"),
    }
    page.module(&report.module);
    page.section("Machine");
    let memory = report.memory.map_or("unknown".into(), |memory| {
        let (total, available) = (HumanBytes(memory.total), HumanBytes(memory.available));
        format!("{total}, {available} of it available")
    });
    page.line("memory", &memory);
    page.line("cores", &report.cores.to_string());
    page.section("Distribution");
    page.line("name", report.distribution.name.as_deref().unwrap_or("unknown"));
    page.line(
        "pull",
        match report.distribution.has_apt {
            true => "works: there is apt-get",
            false => "does not work: there is no apt-get. Use --kernel and --initrd",
        },
    );
    page.section("Cache");
    let no_folder = "none: neither XDG_CACHE_HOME nor HOME is set to an absolute path";
    page.line("folder", report.cache.folder.as_deref().unwrap_or(no_folder));
    let nothing = "nothing is pulled yet; unibody pull gets it";
    page.line("kernel", report.cache.kernel.as_deref().unwrap_or(nothing));
    page.line("size", &HumanBytes(report.cache.size).to_string());
    page.0
}

struct Page(String);

impl Page {
    fn section(&mut self, title: &str) {
        self.0.push_str(&format!("\n{title}\n"));
    }

    fn line(&mut self, name: &str, value: &str) {
        let line = format!("  {name:<width$}{value}", width = COLUMN - 2);
        self.0.push_str(line.trim_end());
        self.0.push('\n');
    }

    fn engine(&mut self, engine: &Engine) {
        self.line(engine.name, &engine.detail);
        self.line("", &format!("({})", engine.about));
        if let Some(probe) = &engine.probe {
            self.probe(probe);
        }
        if let Some(fix) = &engine.fix {
            // In one piece, however long: it is to be copied.
            self.line("", &format!("to use it: {fix}"));
        }
    }

    fn module(&mut self, module: &Module) {
        self.section("Module");
        self.line("state", module.detail);
        for finding in &module.findings {
            self.line(finding.name, &finding.detail);
            if let Some(fix) = &finding.fix {
                self.line("", &format!("to do: {fix}"));
            }
        }
    }

    fn probe(&mut self, probe: &Probe) {
        let names = |result| {
            let wanted = probe.checks.iter().filter(move |check| check.result == result);
            wanted.map(|check| check.name).collect::<Vec<_>>().join(", ")
        };
        let right = names(CheckResult::Right);
        self.line("", &format!("right: {}", if right.is_empty() { "nothing" } else { &right }));
        for check in &probe.checks {
            if let Some(detail) = &check.detail {
                self.line("", &format!("wrong: {}: {detail}", check.name));
            }
        }
        let missing = names(CheckResult::Nothing);
        if !missing.is_empty() {
            self.line("", &format!("not come to: {missing}"));
        }
        let speed = probe.instructions_per_second.map_or("not measured".into(), pace);
        self.line("", &format!("speed: {speed}; tried in {:.1} ms", probe.milliseconds));
    }

    fn words(&mut self, name: &str, words: &[&str]) {
        let mut name = name;
        let mut line = String::new();
        for word in words {
            if !line.is_empty() && COLUMN + line.len() + 1 + word.len() > WIDTH {
                self.line(name, &line);
                name = "";
                line.clear();
            }
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
        self.line(name, if words.is_empty() { "nothing" } else { &line });
    }
}

#[cfg(test)]
#[path = "page_test.rs"]
mod page_test;
