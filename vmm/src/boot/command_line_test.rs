use super::*;

#[test]
fn words_are_joined_by_one_space() {
    let mut line = CommandLine::default();
    for words in ["console=ttyS0", "", "  ", " panic=-1 quiet\n"] {
        line.append(words).unwrap();
    }
    assert_eq!(line.as_str(), "console=ttyS0 panic=-1 quiet");
}

#[test]
fn a_nul_is_refused() {
    let mut line = CommandLine::default();
    assert_eq!(line.append("a\0b"), Err(Error::Nul));
    assert_eq!(line.as_str(), "");
}

#[test]
fn the_limit_counts_the_space_and_a_refusal_changes_nothing() {
    let mut line = CommandLine::new(5);
    line.append("ab").unwrap();
    assert_eq!(line.append("cde"), Err(Error::TooLong { length: 6, limit: 5 }));
    line.append("cd").unwrap();
    assert_eq!(line.as_str(), "ab cd");
}
