//! [`Expected`]: what is expected of each of the kernel's tests of KVM. `docs/kvm-selftests.md` is where it stands, for people and
//! for the test alike: [`read`] takes it from there.

use std::time::Duration;

use anyhow::{Context, Result, bail};

/// The document.
pub const DOCUMENT: &str = include_str!("../../../../docs/kvm-selftests.md");

/// How a test ends. See: Linux, tools/testing/selftests/kselftest.h (`KSFT_SKIP`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Well.
    Pass,
    /// It says that something which it needs is not there.
    Skip,
    /// In any other way, or not in its time.
    Fail,
}

impl End {
    /// What an exit status means; none is a signal, as that which ends a test whose time is over.
    #[must_use]
    pub const fn of(status: Option<i32>) -> Self {
        match status {
            Some(0) => Self::Pass,
            Some(4) => Self::Skip,
            _ => Self::Fail,
        }
    }
}

/// What is expected of a test on the project's own module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OnModule {
    /// How it ends.
    pub end: End,
    /// Only the long form runs it, on two processors.
    pub is_long: bool,
}

/// What is expected of one test: a line of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected {
    /// The program's name.
    pub name: String,
    /// Its parameters.
    pub parameters: Vec<String>,
    /// How long it may take.
    pub limit: Duration,
    /// Only the long form of our tests runs it.
    pub is_long: bool,
    /// How it ends.
    pub end: End,
    /// What it comes to on the project's own module, if it is run there.
    pub module: Option<OnModule>,
    /// What it prints, among other things.
    pub said: Vec<String>,
}

impl Expected {
    /// What is not as expected, of a run that ended and printed so.
    #[must_use]
    pub fn difference(&self, end: End, output: &str) -> Option<String> {
        let missing = self.said.iter().find(|said| !output.contains(said.as_str()));
        let what = match (end == self.end, missing) {
            (false, _) => format!("{:?} is expected and it is {end:?}", self.end),
            (true, Some(missing)) => format!("'{missing}' is not what it says"),
            (true, None) => return None,
        };
        Some(format!("{}: {what}:\n{output}", self.name))
    }
}

/// The lines of the document's table: name, parameters, seconds (and whether it is long), end, the end on the module (likewise), and why, in which what stands between backquotes is what the
/// test prints.
pub fn read(document: &str) -> Result<Vec<Expected>> {
    let lines = document.lines().filter(|line| line.starts_with("| `"));
    lines.map(|line| read_line(line).with_context(|| format!("in '{line}'"))).collect()
}

fn read_line(line: &str) -> Result<Expected> {
    let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
    let [name, parameters, seconds, end, module, why] = cells[..] else {
        bail!("a line has six cells and not {}", cells.len());
    };
    let end = read_end(end)?;
    let (module, is_long_there) = read_long(module);
    let module = match module {
        "-" => None,
        module => Some(OnModule { end: read_end(module)?, is_long: is_long_there }),
    };
    if end != End::Pass && why.is_empty() {
        bail!("what does not pass has a reason");
    }
    let (seconds, is_long) = read_long(seconds);
    let words = parameters.trim_matches('`').split_whitespace();
    Ok(Expected {
        name: name.trim_matches('`').to_owned(),
        parameters: words.map(str::to_owned).collect(),
        limit: Duration::from_secs(seconds.parse().context("seconds are a number")?),
        is_long,
        end,
        module,
        said: why.split('`').skip(1).step_by(2).map(str::to_owned).collect(),
    })
}

/// A cell without the word for what is only in the long form, and whether it has that.
fn read_long(cell: &str) -> (&str, bool) {
    match cell.strip_suffix(", long") {
        Some(rest) => (rest, true),
        None => (cell, false),
    }
}

fn read_end(text: &str) -> Result<End> {
    Ok(match text {
        "pass" => End::Pass,
        "skip" => End::Skip,
        "fail" => End::Fail,
        other => bail!("a test ends with pass, skip or fail, and not '{other}'"),
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{DOCUMENT, End, Expected, OnModule, read};

    fn a_line() -> Expected {
        let text = "| test | … |\n|---|---|\n| `one_test` | `-v 2` | 30 | skip | - | needs it: `not met: it` |\n";
        read(text).expect("it is a table").remove(0)
    }

    #[test]
    fn a_line_is_read_whole() {
        let expected = Expected {
            name: "one_test".into(),
            parameters: vec!["-v".into(), "2".into()],
            limit: Duration::from_secs(30),
            is_long: false,
            end: End::Skip,
            module: None,
            said: vec!["not met: it".into()],
        };
        assert_eq!(a_line(), expected);
        let long = read("| `a` |  | 300, long | pass | pass, long |  |").expect("it is a line");
        assert_eq!(long[0].module, Some(OnModule { end: End::Pass, is_long: true }));
        assert!(long[0].is_long && long[0].parameters.is_empty());
        assert_eq!(long[0].limit, Duration::from_secs(300));
    }

    #[test]
    fn a_changed_end_is_told_in_either_direction_and_so_is_another_reason() {
        let expected = a_line();
        assert_eq!(expected.difference(End::of(Some(4)), "# SKIP not met: it"), None);
        for (status, output) in [
            (Some(0), "not met: it"),
            (Some(254), "not met: it"),
            (None, "not met: it"),
            (Some(4), ""),
        ] {
            let difference = expected.difference(End::of(status), output);
            assert!(
                difference.is_some_and(|text| text.contains("one_test")),
                "{status:?} {output}"
            );
        }
    }

    #[test]
    fn what_is_no_line_of_it_is_an_error() {
        for line in [
            "| `a` | | 1 | pass | |",
            "| `a` | | 1 | maybe | - | x |",
            "| `a` | | 1 | pass | maybe | x |",
            "| `a` | | x | pass | - | |",
            "| `a` | | 1 | fail | - | |",
        ] {
            assert!(read(line).is_err(), "{line}");
        }
    }

    #[test]
    fn the_document_counts_its_lines() {
        let table = read(DOCUMENT).expect("it can be read");
        let count = |end| table.iter().filter(|line| line.end == end).count();
        let [pass, skip, fail] = [End::Pass, End::Skip, End::Fail].map(count);
        let said = format!("Of {} tests {pass} pass, {skip} skip and {fail} fail.", table.len());
        assert!(DOCUMENT.contains(&said), "{said}");
        let passes = |is_long| Some(OnModule { end: End::Pass, is_long });
        let [short, long] = [false, true]
            .map(|is_long| table.iter().filter(|line| line.module == passes(is_long)).count());
        let said = format!(
            "runs: {short} pass\nthere. Marked `long`, on two processors and in `cargo xtask soak module` alone, pass another {long}."
        );
        assert!(DOCUMENT.contains(&said), "{said}");
    }

    #[test]
    fn the_document_can_be_read_and_names_no_test_twice() {
        let table = read(DOCUMENT).expect("it can be read");
        let mut names: Vec<&str> = table.iter().map(|line| line.name.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        assert!(names.len() == table.len() && names.len() > 60, "{names:?}");
    }
}
