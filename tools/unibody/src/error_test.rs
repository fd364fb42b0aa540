use super::*;

#[test]
fn an_error_is_one_line_with_its_advice() {
    let error = Error::new("cannot open kernel 'x'", "no such file.\n").advise("Build one");
    assert_eq!(error.to_string(), "unibody: cannot open kernel 'x': no such file. Build one");
    let error = Error::new("cannot go on", "one\n  two\n\n").quote(vec!["a".into(), "b".into()]);
    assert_eq!(
        error.to_string(),
        "unibody: cannot go on: one two\nThe last lines of the guest's console:\n  a\n  b"
    );
}

#[test]
fn a_reason_has_no_number() {
    let reason_of = |number| reason(&std::io::Error::from_raw_os_error(number));
    assert_eq!(reason_of(2), "no such file");
    assert_eq!(reason_of(28), "the disk is full");
    assert_eq!(reason_of(5), "input/output error");
}
