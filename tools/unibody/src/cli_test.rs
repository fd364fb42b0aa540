use clap::error::ErrorKind;

use super::*;

fn run(arguments: &[&str]) -> Run {
    match Cli::try_parse_from([&["unibody", "run"], arguments].concat()).unwrap().verb {
        Verb::Run(options) => *options,
        Verb::Pull(_) | Verb::WithKvm(_) | Verb::Doctor(_) | Verb::ShareServer(_) => {
            panic!("run was asked for")
        }
    }
}

#[test]
fn the_definition_is_consistent() {
    <Cli as clap::CommandFactory>::command().debug_assert();
}

#[test]
fn sizes_are_read_as_people_write_them() {
    for (text, size) in [
        ("512M", 512 << 20),
        ("1G", 1 << 30),
        ("2g", 2 << 30),
        ("64MiB", 64 << 20),
        ("8mb", 8 << 20),
        ("1024K", 1 << 20),
        ("1T", 1 << 40),
        ("1073741824", 1 << 30),
        ("5b", 5),
    ] {
        assert_eq!(parse_size(text), Ok(size), "{text}");
    }
    for text in ["", "M", "-1", "1.5G", "1 G", "10X", "99999999999999999999", "20000000T", "1é"] {
        assert!(parse_size(text).is_err(), "{text}");
    }
}

#[test]
fn the_defaults_are_those_of_the_help() {
    let options = run(&[]);
    assert_eq!((options.memory, options.cpus.get()), (512 << 20, 1));
    assert_eq!(options.engine, Engine::Auto);
    assert!(options.command.is_empty() && options.cmdline.is_empty());
    assert_eq!((options.jit_cache, options.no_jit), (None, false));
    assert_eq!(options.modules, None);
    assert_eq!(options.software_cpu_only(), None);
}

#[test]
fn code_is_translated_into_as_much_memory_as_is_said_or_not_at_all() {
    assert_eq!(run(&["--jit-cache", "1M"]).jit_cache, Some(1 << 20));
    assert!(run(&["--no-jit"]).no_jit);
    let both = ["unibody", "run", "--no-jit", "--jit-cache", "1M"];
    let error = Cli::try_parse_from(both).unwrap_err();
    assert_eq!((error.kind(), error.exit_code()), (ErrorKind::ArgumentConflict, 2));
}

#[test]
fn an_engine_is_named_and_some_options_need_one() {
    for (name, engine) in [
        ("auto", Engine::Auto),
        ("soft", Engine::Soft),
        ("kvm", Engine::Kvm),
        ("unibody", Engine::Unibody),
    ] {
        assert_eq!(run(&["--engine", name]).engine, engine);
    }
    for (arguments, needed) in [
        (&["--lockstep"][..], Some("--lockstep")),
        (&["--no-jit"], Some("--no-jit")),
        (&["--jit-cache", "32M"], Some("--jit-cache")),
        (&["--jit-mode", "step"], Some("--jit-mode")),
        (&["--cpus", "2"], None),
    ] {
        assert_eq!(run(arguments).software_cpu_only(), needed);
    }
}

#[test]
fn where_the_interrupt_controllers_are_is_said_to_kvm() {
    assert_eq!((run(&[]).irqchip, run(&[]).kvm_only()), (None, None));
    for (name, irqchip) in [("kernel", Irqchip::Kernel), ("split", Irqchip::Split)] {
        let options = run(&["--irqchip", name]);
        assert_eq!((options.irqchip, options.kvm_only()), (Some(irqchip), Some("--irqchip")));
    }
}

#[test]
fn lockstep_is_asked_for_and_needs_translated_code() {
    assert!(!run(&[]).lockstep);
    assert!(run(&["--lockstep", "--jit-cache", "1M"]).lockstep);
    let error = Cli::try_parse_from(["unibody", "run", "--lockstep", "--no-jit"]).unwrap_err();
    assert_eq!((error.kind(), error.exit_code()), (ErrorKind::ArgumentConflict, 2));
}

#[test]
fn modes_for_tests_are_read_and_not_shown() {
    assert_eq!(run(&[]).jit_mode, Modes::USUAL);
    let Modes { step, every, flush, tlb, poison } =
        run(&["--jit-mode", "step,flush=3,tlb=tiny,flags=poison"]).jit_mode;
    assert_eq!((step, every, flush, tlb, poison), (true, 3, true, 8, true));
    assert_eq!(run(&["--jit-mode", "nochain"]).jit_mode, Modes { every: 1, ..Modes::USUAL });
    for wrong in ["stepp", "irq", "irq=0", "irq=x", "flush=0", "tlb", "flags=none", "step=1"] {
        let error = Cli::try_parse_from(["unibody", "run", "--jit-mode", wrong]).unwrap_err();
        assert_eq!(error.exit_code(), 2, "{wrong}");
    }
    let mut command = <Cli as clap::CommandFactory>::command();
    let help = command.find_subcommand_mut("run").expect("a verb").render_long_help().to_string();
    assert!(help.contains("--no-jit") && !help.contains("--jit-mode"), "{help}");
}

#[test]
fn what_follows_the_dashes_is_the_command_s() {
    let options = run(&["--memory", "1G", "--", "sh", "-c", "exit 7", "--verbose"]);
    assert_eq!(options.command, ["sh", "-c", "exit 7", "--verbose"]);
    assert!(!options.verbose);
    let options = run(&["--cmdline", "a", "--cmdline", "b=c"]);
    assert_eq!(options.cmdline, ["a", "b=c"]);
}

#[test]
fn a_mistake_is_a_usage_error_with_a_suggestion() {
    let error = Cli::try_parse_from(["unibody", "run", "--memroy", "1G"]).unwrap_err();
    assert_eq!((error.kind(), error.exit_code()), (ErrorKind::UnknownArgument, 2));
    assert!(error.to_string().contains("--memory"), "{error}");
    for arguments in [
        ["--cpus", "0"],
        ["--memory", "much"],
        ["--engine", "hard"],
        ["--irqchip", "off"],
        ["-q", "-v"],
    ] {
        let error =
            Cli::try_parse_from([&["unibody", "run"], &arguments[..]].concat()).unwrap_err();
        assert_eq!(error.exit_code(), 2, "{arguments:?}");
    }
}
