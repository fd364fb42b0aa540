//! `unibody run`: from the command line to the guest's end.
//!
//! What to boot is found ([`Parts`]), made a machine (`vmm`) and run, with [`Relay`] between it and this process's streams.

use std::fs::File;
use std::io::{IsTerminal, Read};
use std::os::unix::ffi::OsStringExt;
use std::path::Path;
use std::sync::Arc;

use clap::CommandFactory;
use clap::error::ErrorKind;
use guest_protocol::{Start, Terminal, WindowSize};
use hv::host_error::explain;
use hv::in_process::InProcess;
use hv::{Hypervisor, Vm};
use indicatif::ProgressBar;
use vmm::boot::Kernel;
use vmm::boot::kernel;
use vmm::control::Session;
use vmm::machine::{self, Config, Machine};
use vmm::virtio::console::Console;

use crate::cli::{self, Cli, Engine};
use crate::devices::{self, Devices, net};
use crate::ending::{self, Ended};
use crate::engine::{self, Selected};
use crate::error::{Error, quoted, reason, say};
use crate::initramfs::HOSTNAME;
use crate::parts::{Parts, kernel_error, open_kernel};
use crate::relay::{Lines, Manner, Relay};
use crate::root::{self, Files, caller};
use crate::streams::Threads;
use crate::terminal::{self, RawMode, Signal, SignalWatch};
use crate::verbose;

/// Carries the verb out and returns the exit status.
pub(crate) fn execute(options: &cli::Run) -> Result<u8, Error> {
    let own_init = has_own_init(options);
    if own_init && !options.command.is_empty() {
        usage_error(
            "a COMMAND can't be run by an init of your own (rdinit= or init= in --cmdline)",
        );
    }
    if let (engine @ (Engine::Kvm | Engine::Unibody), Some(option)) =
        (options.engine, options.software_cpu_only())
    {
        let name = if engine == Engine::Kvm { "kvm" } else { "unibody" };
        usage_error(&format!(
            "{option} is the software CPU's, and can't be used with --engine {name}"
        ));
    }
    match (options.engine, options.kvm_only(), options.software_cpu_only()) {
        (Engine::Soft, Some(option), _) => {
            usage_error(&format!("{option} is KVM's, and can't be used with --engine soft"));
        }
        (_, Some(option), Some(other)) => {
            usage_error(&format!("{option} is KVM's, and {other} is the software CPU's"));
        }
        _ => {}
    }
    if own_init && options.modules.is_some() {
        usage_error(
            "--modules are loaded by Unibody's init, not by one of your own (rdinit= or init= in --cmdline)",
        );
    }
    if options.lockstep && options.cpus.get() > 1 {
        usage_error("--lockstep works with one processor only (--cpus 1)");
    }
    if options.lockstep && options.jit_cache == Some(0) {
        usage_error("--lockstep checks translated code, for which --jit-cache 0 leaves no room");
    }
    if let Some(text) = net::conflict(options) {
        usage_error(text);
    }
    // What a person gives is looked at before anything is downloaded.
    let own_kernel = options.kernel.as_deref().map(open_kernel).transpose()?;
    let is_multiboot = own_kernel.as_ref().is_some_and(Kernel::is_multiboot);
    if is_multiboot && !options.command.is_empty() {
        usage_error("a COMMAND can't be run by a Multiboot kernel: it is not Linux");
    }
    if is_multiboot && options.modules.is_some() {
        usage_error("--modules can't be loaded by a Multiboot kernel: it is not Linux");
    }
    let has_init = !own_init && !is_multiboot;
    if !has_init && matches!(options.root, Some(root::Choice::Folder(_))) {
        usage_error(
            "--root is mounted by Unibody's init: not by one of your own, nor by a Multiboot kernel",
        );
    }
    let files = Files::choose(options, has_init)?;
    let selected = engine::select(options)?;
    let interactive = terminal::is_interactive();
    let session = has_init.then(|| session(options, &files, interactive)).transpose()?;
    let parts = match own_kernel {
        Some(kernel) if is_multiboot => Parts::of_multiboot(options, kernel)?,
        own_kernel => Parts::find(options, own_kernel, &files, own_init)?,
    };
    let asked = Asked { options, files, session, interactive };
    match selected {
        Selected::Soft => boot(&software_cpu(options)?, asked, parts),
        Selected::Kvm(kvm) => boot(&kvm, asked, parts),
    }
}

/// The software CPU as the person wants it. Says so if this host does not let it translate code.
fn software_cpu(options: &cli::Run) -> Result<InProcess, Error> {
    let (lockstep, modes) = (options.lockstep, options.jit_mode);
    let mut engine = InProcess { lockstep, modes, ..InProcess::default() };
    let room = if options.no_jit { Some(0) } else { options.jit_cache };
    engine.jit_cache = room.map_or(engine.jit_cache, |size| size as usize);
    engine.counted = options.verbose;
    if lockstep {
        // All code is checked, even what is executed only once.
        engine.patience = 0;
    }
    if let Some(why) = engine.lacks_jit() {
        if options.lockstep {
            let action = "cannot check translated code";
            return Err(Error::new(
                action,
                format!("this host lets none be translated ({})", reason(&why)),
            ));
        }
        say(&format!(
            "unibody: this host does not let code be translated ({}): the guest runs slower",
            reason(&why)
        ));
    }
    Ok(engine)
}

/// Whether the person wants another init than Unibody's, which only an initrd of their own can have.
fn has_own_init(options: &cli::Run) -> bool {
    let words = options.cmdline.iter().flat_map(|text| text.split_whitespace());
    let names_init = |word: &str| word.starts_with("rdinit=") || word.starts_with("init=");
    options.initrd.is_some() && words.into_iter().any(names_init)
}

fn usage_error(text: &str) -> ! {
    let mut command = Cli::command();
    command.build();
    let run = command.find_subcommand_mut("run").expect("it is this verb");
    run.error(ErrorKind::ArgumentConflict, text).exit()
}

/// The session in which init runs the command.
fn session(options: &cli::Run, files: &Files, interactive: bool) -> Result<Session, Error> {
    let size = terminal::window_size().unwrap_or(WindowSize { rows: 24, cols: 80 });
    let stderr_apart = !std::io::stderr().is_terminal();
    let argv = options.command.iter().map(|word| word.clone().into_vec());
    let usual = if files.has_root() { cli::User::Me } else { cli::User::Root };
    let is_self = options.user.unwrap_or(usual) == cli::User::Me;
    let mut env = caller::environment(files, is_self);
    env.retain(|(name, value)| name != b"TERM" || (interactive && !value.is_empty()));
    Session::new(Start {
        argv: argv.collect(),
        env,
        cwd: files.working_directory().map(|path| path.into_os_string().into_vec()),
        user: is_self.then(caller::user),
        terminal: interactive.then_some(Terminal { size, stderr_apart }),
        hostname: HOSTNAME.into(),
        network: net::in_guest(options),
        mounts: files.mounts(),
        root: files.root(),
    })
    .map_err(|error| Error::new("cannot run the command", error))
}

/// What a person wants of a guest, besides what it is booted from.
struct Asked<'a> {
    options: &'a cli::Run,
    files: Files,
    /// None if there is no init of ours.
    session: Option<Session>,
    interactive: bool,
}

/// Runs a guest on `hypervisor` from its start to its end.
fn boot<H: Hypervisor>(hypervisor: &H, asked: Asked<'_>, parts: Parts) -> Result<u8, Error> {
    let Asked { options, files, session, interactive } = asked;
    if options.verbose {
        tell(hypervisor.name(), options, &parts);
    }
    let without_init = session.is_none();
    let lines = Lines::default();
    let is_linux = !parts.kernel.is_multiboot();
    let Devices { virtio, console, disks, shares, socket: _socket } =
        devices::create(options, &files, &lines, is_linux, H::Vm::CHEAP_EXITS)?;
    let release = parts.kernel.release().unwrap_or_default().to_string();
    let config = Config {
        memory: options.memory,
        cpus: options.cpus,
        irqchip: options.irqchip.map(Into::into).unwrap_or_default(),
        kernel: parts.kernel,
        initrd: parts.archives,
        command_line: &parts.command_line,
        rng_seed: Some(seed()?),
        lines: lines.0.clone(),
        debug_exit: options.isa_debug_exit,
        virtio,
    };
    let (machine, _) =
        Machine::new(hypervisor, config).map_err(|error| start_error(error, &parts.kernel_path))?;

    shares.wait()?;
    let waiting = Waiting::show(options, &release, without_init);
    let booted = {
        let waiting = waiting.clone();
        Box::new(move || waiting.end())
    };
    let manner = Manner { interactive, verbose: options.verbose, booted };
    let relay = Arc::new(Relay::new(lines, machine.handle(), session, manner));
    let no_start = |error: &dyn std::fmt::Display| Error::new("cannot start the guest", error);
    let signals = watch_signals(&relay, console.clone()).map_err(|error| no_start(&error))?;
    let raw = match interactive {
        true => Some(RawMode::enter().map_err(|error| no_start(&error))?),
        false => None,
    };
    let threads = Threads::start(&relay).map_err(|error| {
        no_start(&format!("cannot serve its input and output: {}", explain(&error)))
    })?;
    let handle = machine.handle();
    let result = machine.run();
    relay.set_over();
    if let Some(console) = console {
        console.flush();
    }
    relay.lines.close();
    let received = threads.finish(&relay);
    drop(raw);
    waiting.end();
    if interactive && relay.stopped().is_some() {
        // The cursor stands behind the guest's prompt.
        say("");
    }
    drop(signals);
    disks.close();
    // The guest is at its end: that their processes end is no news.
    drop(shares);

    let (ending, counts) = result.map_err(|error| start_error(error, &parts.kernel_path))?;
    if let (true, Some(counts)) = (options.verbose, counts) {
        verbose::counts(&counts);
    }
    if let (true, Some(text)) = (options.verbose, handle.vmcoreinfo()) {
        verbose::vmcoreinfo(&text);
    }
    ending::status(&Ended {
        machine: ending,
        session: relay.session_end(),
        stop: relay.stopped(),
        console: &relay.console(),
        received,
        without_init,
    })
}

fn watch_signals(
    relay: &Arc<Relay>,
    console: Option<Arc<Console>>,
) -> Result<SignalWatch, terminal::TerminalError> {
    let relay = Arc::clone(relay);
    SignalWatch::new(move |signal| match signal {
        Signal::Resized(size) => {
            console.iter().for_each(|console| console.resize(size));
            relay.resize(size);
        }
        Signal::End(signal) => relay.signal(signal),
    })
}

/// Says what is about to be run.
fn tell(engine: &str, options: &cli::Run, parts: &Parts) {
    if parts.kernel.is_multiboot() {
        say(&format!("unibody: Multiboot kernel {}", quoted(&parts.kernel_path)));
    } else {
        let version = parts.kernel.version().unwrap_or("of unknown version");
        let kaslr = if parts.kernel.kaslr() { "on" } else { "off" };
        say(&format!("unibody: kernel {version}; KASLR is {kaslr}"));
    }
    say(&format!("unibody: command line: {}", parts.command_line.as_str()));
    let mib = options.memory >> 20;
    say(&format!("unibody: engine {engine}, {} processors, {mib} MiB of memory", options.cpus));
}

/// Randomness that the guest's kernel starts with.
fn seed() -> Result<[u8; 32], Error> {
    let mut seed = [0; 32];
    File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut seed))
        .map_err(|error| Error::new("cannot read /dev/urandom", reason(&error)))?;
    Ok(seed)
}

fn start_error(error: machine::Error, kernel: &Path) -> Error {
    use vmm::boot::linux::Error as Boot;
    use vmm::memory::Error as Memory;
    // A packed kernel's damage shows only while it is placed. One without room is whole.
    if let machine::Error::Boot(Boot::Kernel(error)) = &error
        && !matches!(error, kernel::Error::NoRoom { .. } | kernel::Error::Write(_))
    {
        return kernel_error(kernel, error);
    }
    let advice = match &error {
        machine::Error::Memory(Memory::TooLittle { .. }) => Some("Give it more with --memory"),
        machine::Error::Memory(Memory::TooMuch { .. } | Memory::Host { .. }) => {
            Some("Give it less with --memory")
        }
        _ => None,
    };
    let told = Error::new("cannot start the guest", error);
    match advice {
        Some(advice) => told.advise(advice),
        None => told,
    }
}

/// Tells the person at the terminal that the guest boots: a software CPU takes its time.
#[derive(Clone)]
struct Waiting(Option<ProgressBar>);

impl Waiting {
    fn show(options: &cli::Run, release: &str, without_init: bool) -> Waiting {
        if options.quiet || options.verbose || without_init || !std::io::stderr().is_terminal() {
            return Waiting(None);
        }
        let bar = ProgressBar::new_spinner();
        bar.set_message(format!("Booting Linux {release}"));
        bar.enable_steady_tick(std::time::Duration::from_millis(100));
        Waiting(Some(bar))
    }

    fn end(&self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
#[path = "run_test.rs"]
mod run_test;
