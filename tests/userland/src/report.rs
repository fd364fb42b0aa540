//! What a list of test programs says: the script that runs them, and [`outcomes`], which reads its output.

/// A shell script that runs each program of `/tests`, between two lines of the script's own. One program has
/// `seconds`, unless the script's environment says otherwise by `LIMIT`.
#[must_use]
pub fn script(seconds: u32) -> String {
    format!(
        "#!/bin/sh\n\
         cd /tests\n\
         for test in *; do\n\
         echo \"begin $test\"\n\
         timeout -s KILL ${{LIMIT:-{seconds}}} ./$test 2>&1 </dev/null\n\
         status=$?\n\
         echo\n\
         echo \"end $test $status\"\n\
         done\n"
    )
}

/// How a program ended, and what it printed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The program's name.
    pub name: String,
    /// Its exit status, as a shell counts it: 128 and the signal's number if one killed it.
    pub status: u32,
    /// Its stdout and stderr.
    pub output: String,
}

impl Outcome {
    /// Whether it ended well.
    #[must_use]
    pub const fn passed(&self) -> bool {
        self.status == 0
    }
}

/// Reads the script's output. Programs whose end is missing are not in it.
#[must_use]
pub fn outcomes(text: &str) -> Vec<Outcome> {
    let mut outcomes = Vec::new();
    let mut open: Option<(String, String)> = None;
    for line in text.lines().map(|line| line.trim_end_matches('\r')) {
        if let Some(name) = line.strip_prefix("begin ") {
            open = Some((name.to_string(), String::new()));
            continue;
        }
        let Some((name, output)) = &mut open else { continue };
        let status = line.strip_prefix("end ").and_then(|rest| rest.strip_prefix(name.as_str()));
        match status.and_then(|status| status.trim().parse().ok()) {
            Some(status) => {
                let output = output.trim_end().to_string();
                outcomes.push(Outcome { name: name.clone(), status, output });
                open = None;
            }
            None => {
                output.push_str(line);
                output.push('\n');
            }
        }
    }
    outcomes
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::process::Command;

    use super::{Outcome, outcomes, script};

    #[test]
    fn the_script_says_how_each_program_ended() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        for (name, text) in [("a", "printf one"), ("b", "kill -SEGV $$"), ("c", "sleep 60")] {
            let file = folder.path().join(name);
            fs::write(&file, format!("#!/bin/sh\n{text}\n")).expect("it is ours");
            fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).expect("it is ours");
        }
        let script = script(1);
        let script = script.replace("/tests", &folder.path().display().to_string());
        let output = Command::new("sh").args(["-c", &script]).output().expect("a shell");
        let found = outcomes(&String::from_utf8_lossy(&output.stdout));
        let statuses: Vec<_> = found.iter().map(|one| (one.name.as_str(), one.status)).collect();
        assert_eq!(statuses, [("a", 0), ("b", 139), ("c", 137)]);
        assert_eq!(found[0].output, "one");
    }

    #[test]
    fn a_terminal_in_between_changes_nothing() {
        let text = "noise\r\nbegin x_32\r\nend of what?\r\n\r\nend x_32 1\r\nbegin y\r\n";
        let (name, output) = ("x_32".to_string(), "end of what?".to_string());
        assert_eq!(outcomes(text), [Outcome { name, status: 1, output }]);
    }
}
