//! The command as a script of the nest's shell.

/// The script that becomes the command. Each argument arrives as it is, whatever is in it.
pub fn script(command: &[String]) -> String {
    let words: Vec<String> = command.iter().map(|argument| quoted(argument)).collect();
    format!("exec {}\n", words.join(" "))
}

/// A word that the shell takes literally. Between single quotes it does so with all but these.
fn quoted(argument: &str) -> String {
    format!("'{}'", argument.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::{quoted, script};

    #[test]
    fn words_are_literal() {
        assert_eq!(quoted(""), "''");
        assert_eq!(quoted("a b\n$c \"d\" \\"), "'a b\n$c \"d\" \\'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
    }

    #[test]
    fn a_shell_gives_back_what_was_quoted() {
        let command = ["printf", "<%s>", "a b", "", "it's \"x\"", "$HOME `id` \\ *\n;", "ü"];
        let script = script(&command.map(str::to_owned));
        let shell = std::process::Command::new("sh").arg("-c").arg(script).output();
        let printed = shell.expect("there is a shell").stdout;
        let expected = "<a b><><it's \"x\"><$HOME `id` \\ *\n;><ü>";
        assert_eq!(String::from_utf8_lossy(&printed), expected);
    }
}
