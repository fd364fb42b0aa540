//! `unibody run`: from the command line to the guest's end.
//!
//! What to boot is found (`pull`), put together ([`initramfs`]), made a machine
//! (`vmm`) and run, with [`Relay`] between it and this process's streams.

use std::fs::File;
use std::io::{IsTerminal, Read};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::CommandFactory;
use clap::error::ErrorKind;
use guest_protocol::{Start, Terminal, WindowSize};
use hv::host_error::explain;
use hv::in_process::InProcess;
use hv::{Hypervisor, Vm};
use indicatif::ProgressBar;
use vmm::boot::input::Input;
use vmm::boot::kernel::{self, DEFAULT_LIMIT};
use vmm::boot::unpack::Compression;
use vmm::boot::{CommandLine, Kernel};
use vmm::control::Session;
use vmm::machine::{self, COMMAND_LINE, Config, Machine};
use vmm::virtio::console::Console;

use crate::cli::{self, Cli, Engine};
use crate::devices::{self, Devices, net};
use crate::ending::{self, Ended};
use crate::engine::{self, Selected};
use crate::error::{Error, quoted, reason, say};
use crate::initramfs;
use crate::modules::choice;
use crate::modules::for_guest::ForGuest;
use crate::modules::wanted::{Driver, Wanted};
use crate::pull::command::user_store;
use crate::pull::ensure;
use crate::pull::progress::Progress;
use crate::pull::store::Guest;
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
        hostname: initramfs::HOSTNAME.into(),
        network: net::in_guest(options),
        mounts: files.mounts(),
        root: files.root(),
    })
    .map_err(|error| Error::new("cannot run the command", error))
}

/// What a guest is booted from.
struct Parts {
    kernel: Kernel,
    kernel_path: PathBuf,
    archives: Vec<Input>,
    command_line: CommandLine,
}

impl Parts {
    fn find(
        options: &cli::Run,
        own_kernel: Option<Kernel>,
        files: &Files,
        own_init: bool,
    ) -> Result<Parts, Error> {
        let own_archive =
            options.initrd.as_deref().map(|path| read_initrd(path, options.memory)).transpose()?;
        let pulled = match (&own_kernel, &own_archive) {
            (Some(_), Some(_)) => None,
            _ => Some(pulled(options)?),
        };
        let kernel_path = match (&options.kernel, &pulled) {
            (Some(path), _) => path.clone(),
            (None, Some(guest)) => guest.kernel(),
            (None, None) => unreachable!("pulled if there is no kernel"),
        };
        let kernel = own_kernel.map_or_else(|| open_kernel(&kernel_path), Ok)?;
        let modules = if own_init {
            None
        } else {
            let of_kernel = pulled.as_ref().filter(|_| options.kernel.is_none());
            let (told, own_path) = (options.modules.as_deref(), options.kernel.as_deref());
            choice::choose(&wanted(options, files), told, own_path, kernel.release(), of_kernel)?
        };
        let archives = match (own_archive, &pulled) {
            (Some(archive), _) if own_init => vec![archive],
            (Some(archive), _) => {
                std::iter::once(archive).chain(pack(initramfs::overlay(modules))?).collect()
            }
            (None, Some(guest)) => userland(guest, modules)?,
            (None, None) => unreachable!("pulled if there is no initrd"),
        };
        let command_line = command_line(&kernel, COMMAND_LINE, options)?;
        Ok(Parts { kernel, kernel_path, archives, command_line })
    }

    /// A Multiboot kernel wants none of what Linux does: its command line is its name and what the
    /// person adds, and a file is a module, whatever is in it.
    fn of_multiboot(options: &cli::Run, kernel: Kernel) -> Result<Parts, Error> {
        let kernel_path = options.kernel.clone().unwrap_or_default();
        let module =
            options.initrd.as_deref().map(|path| read_module(path, options.memory)).transpose()?;
        let command_line = command_line(&kernel, &kernel_path.to_string_lossy(), options)?;
        Ok(Parts { kernel, kernel_path, archives: module.into_iter().collect(), command_line })
    }
}

/// What was pulled before, or is pulled now.
fn pulled(options: &cli::Run) -> Result<Guest, Error> {
    let store = user_store()?;
    ensure(&store, || Progress::new(options.quiet)).map_err(|error| error.explain(Some(&store)))
}

fn open_kernel(path: &Path) -> Result<Kernel, Error> {
    Kernel::open(path, DEFAULT_LIMIT).map_err(|error| kernel_error(path, &error))
}

fn kernel_error(path: &Path, error: &kernel::Error) -> Error {
    const ADVICE: &str = "Build one, or leave --kernel out to use the distribution's";
    let (action, reason) = match error {
        kernel::Error::Open(error) => ("open", reason(error)),
        kernel::Error::Read(error) => ("read", reason(error)),
        error => ("use", error.to_string()),
    };
    Error::new(format!("cannot {action} kernel {}", quoted(path)), reason).advise(ADVICE)
}

/// Reads a person's own initial file system, if it can fit into `memory` and looks like one.
fn read_initrd(path: &Path, memory: u64) -> Result<Input, Error> {
    const ADVICE: &str = "Give a cpio archive, or leave --initrd out to use BusyBox";
    let bytes = read_whole(path, memory, ADVICE)?;
    let failed = |why: &str| Err(initrd_error("use", path, why).advise(ADVICE));
    let is_cpio = bytes.starts_with(b"070701") || bytes.starts_with(b"070702");
    match bytes.as_slice() {
        [] => failed("it is an empty file"),
        _ if is_cpio || Compression::detect(&bytes).is_some() => Ok(Input::bytes(bytes)),
        _ => failed("it is no cpio archive, compressed or not"),
    }
}

/// Reads the module of a Multiboot kernel, if it can fit into `memory`.
fn read_module(path: &Path, memory: u64) -> Result<Input, Error> {
    const ADVICE: &str = "Give another file, or leave --initrd out to give the kernel no module";
    read_whole(path, memory, ADVICE).map(Input::bytes)
}

fn initrd_error(action: &str, path: &Path, why: impl std::fmt::Display) -> Error {
    Error::new(format!("cannot {action} initrd {}", quoted(path)), why)
}

/// Reads a file that is to go into the guest's memory as it is, if it can fit into that.
fn read_whole(path: &Path, memory: u64, advice: &str) -> Result<Vec<u8>, Error> {
    let failed = |action: &str, why| initrd_error(action, path, why).advise(advice);
    let file = File::open(path).map_err(|error| failed("open", reason(&error)))?;
    let mut bytes = Vec::new();
    let result = file.take(memory).read_to_end(&mut bytes);
    result.map_err(|error| failed("read", reason(&error)))?;
    if bytes.len() as u64 >= memory {
        let why = format!("it is larger than the guest's memory ({memory} bytes)");
        return Err(initrd_error("use", path, why).advise("Give the guest more with --memory"));
    }
    Ok(bytes)
}

/// What the guest's devices need, and what a person who names modules may ask for.
fn wanted(options: &cli::Run, files: &Files) -> Wanted {
    if options.modules.is_some() {
        return Wanted::everything();
    }
    let has_disk = !options.disk.is_empty();
    let drivers = [
        (true, Driver::Pci),
        (has_disk, Driver::Block),
        (options.console == cli::Console::Virtio, Driver::Console),
        (options.vsock.is_some(), Driver::Vsock),
        (net::choice(options).is_some(), Driver::Network),
        // What asks for an address.
        (matches!(net::choice(options), Some(net::Choice::Tap(_))), Driver::Packet),
        (!files.is_empty(), Driver::FileSystem),
        (files.has_layers(), Driver::Overlay),
    ];
    let needed = drivers.into_iter().filter_map(|(is_there, driver)| is_there.then_some(driver));
    Wanted {
        drivers: needed.collect(),
        // Entropy, too: the kernel of today has some of its own.
        later: vec![Driver::Rng, Driver::Balloon, Driver::Panic, Driver::FwCfg],
        file_systems: has_disk,
    }
}

/// The initial file system of BusyBox.
fn userland(guest: &Guest, modules: Option<ForGuest>) -> Result<Vec<Input>, Error> {
    let path = guest.busybox();
    let open = || {
        let file = File::open(&path)?;
        let length = file.metadata()?.len();
        Ok(Input::file(file, length))
    };
    let busybox = open().map_err(|error: std::io::Error| {
        Error::new(format!("cannot read {}", quoted(&path)), reason(&error))
            .advise("Get it again with unibody pull")
    })?;
    pack(initramfs::userland(busybox, &guest.manifest.applets, modules))
}

fn pack(archive: Result<Vec<Input>, vmm::boot::cpio::Error>) -> Result<Vec<Input>, Error> {
    archive.map_err(|error| Error::new("cannot pack the guest's file system", error))
}

/// `first`, and what the person adds.
fn command_line(kernel: &Kernel, first: &str, options: &cli::Run) -> Result<CommandLine, Error> {
    let mut line = CommandLine::new(kernel.command_line_limit());
    std::iter::once(first)
        .chain(options.cmdline.iter().map(String::as_str))
        .try_for_each(|words| line.append(words))
        .map_err(|error| {
            Error::new("cannot use --cmdline", error).advise("Give the kernel fewer words")
        })?;
    Ok(line)
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
