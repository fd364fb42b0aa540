//! Scripts that have to run to their end: [`command`].

/// Runs a script, and then looks whether it came to its end.
const TO_ITS_END: &str = r#"AT_ITS_END=$(mktemp) && export AT_ITS_END || exit
sh -c "$@"
status=$?
[ $status != 0 ] || [ -s "$AT_ITS_END" ] || { echo "failed: the script broke off"; status=1; }
rm -f "$AT_ITS_END"
exit $status
"#;

/// The command that runs a script of this name, whose arguments may be added to it. Its status is the script's, and 1 if that ended with 0
/// anywhere but at its end: where a shell gave its place to a program (`exec`), what came after has not run, and the status is that program's.
pub fn command(script: &str, name: &str) -> Vec<String> {
    let script = format!("{script}\necho yes >\"$AT_ITS_END\"\n");
    ["sh", "-c", TO_ITS_END, "sh", &script, name].map(str::to_owned).to_vec()
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Output};

    use super::command;

    fn run(script: &str) -> Output {
        let words = command(script, "name");
        let (program, arguments) = words.split_first().expect("there is a program");
        Command::new(program).args(arguments).arg("one").output().expect("there is a shell")
    }

    #[test]
    fn a_script_that_breaks_off_has_failed() {
        for (script, status) in [
            ("[ \"$0 $1 $#\" = 'name one 1' ]", Some(0)),
            ("exit 3", Some(3)),
            ("(exec true)", Some(0)),
            ("exec true", Some(1)),
            ("exit 0", Some(1)),
        ] {
            assert_eq!(run(script).status.code(), status, "{script}");
        }
    }
}
