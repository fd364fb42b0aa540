use clap::Parser;

use super::*;
use crate::cli::Verb;

fn options(arguments: &[&str]) -> cli::Run {
    match Cli::parse_from([&["unibody", "run"], arguments].concat()).verb {
        Verb::Run(options) => *options,
        Verb::Pull(_) | Verb::WithKvm(_) | Verb::Doctor(_) | Verb::ShareServer(_) => {
            panic!("run was asked for")
        }
    }
}

#[test]
fn an_own_init_takes_an_own_initrd() {
    assert!(has_own_init(&options(&["--initrd", "x", "--cmdline", "quiet rdinit=/bin/sh"])));
    assert!(has_own_init(&options(&["--initrd", "x", "--cmdline", "a", "--cmdline", "init=/i"])));
    assert!(!has_own_init(&options(&["--initrd", "x", "--cmdline", "noinit=/i"])));
    assert!(!has_own_init(&options(&["--cmdline", "init=/i"])));
}

fn told(result: Result<impl Sized, Error>) -> String {
    result.err().map(|error| error.to_string()).unwrap_or_default()
}

#[test]
fn an_impossible_command_is_refused_before_the_boot() {
    let error = told(session(&options(&["--", "a\0b"]), &Files::default(), false));
    assert!(error.starts_with("unibody: cannot run the command: "), "{error}");
    assert!(session(&options(&[]), &Files::default(), true).is_ok());
}
