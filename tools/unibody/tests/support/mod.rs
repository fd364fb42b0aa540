//! What the end-to-end tests share: the program, run as an unprivileged user with a cache of its own.
//!
//! Whoever tests as root runs the program as `nobody`, because ordinary users are who runs it. The
//! cache outlives the tests, so that only the first of them downloads anything.
//!
//! Where the tests run otherwise than cargo runs them, as in the nest, the environment says so:
//! - `UNIBODY_TEST_ENGINE`: the engine that guests run on (see [`run`]), with options of its own, such as `kvm --irqchip split`;
//!   `soft` if nothing is said;
//! - `UNIBODY_TEST_PROGRAM`: the program; else the one that cargo has built;
//! - `UNIBODY_TEST_CACHE`: an unprivileged user's cache, into which a kernel and BusyBox have been pulled;
//! - `UNIBODY_TEST_SHELF`: a folder with what `userland` has built;
//! - `UNIBODY_TEST_LIMIT`: how many seconds one run may take.
//!
//! What is about the software CPU alone says `--engine soft` itself ([`SOFT`]) and is in a module `soft`, which `--skip soft::` leaves out.
#![allow(dead_code, reason = "each test file uses a part")]

pub mod running;

use std::ffi::OsStr;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex, Once, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Nobody's number.
const NOBODY: u32 = 65534;

/// How long one run may take: many times what it does on a busy machine.
pub fn limit() -> Duration {
    let seconds = std::env::var("UNIBODY_TEST_LIMIT").map_or(Ok(150), |text| text.parse());
    Duration::from_secs(seconds.expect("UNIBODY_TEST_LIMIT is a number of seconds"))
}

/// Whether the tests run as root.
pub fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}

/// A folder for the tests of this user, which anyone may enter.
fn folder() -> PathBuf {
    userland::shelf::folder().expect("the temporary folder can be written")
}

/// The program, where an unprivileged user can reach it.
pub fn program() -> PathBuf {
    // One copy a process: its tests may be threads.
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(copy_program).clone()
}

/// The path that a variable of the environment says, or another.
fn path_of(variable: &str, otherwise: impl FnOnce() -> PathBuf) -> PathBuf {
    std::env::var_os(variable).map_or_else(otherwise, PathBuf::from)
}

fn copy_program() -> PathBuf {
    let built = path_of("UNIBODY_TEST_PROGRAM", || env!("CARGO_BIN_EXE_unibody").into());
    let facts = built.metadata().expect("cargo has built it");
    let folder = folder().join(format!("program-{}-{}", facts.mtime(), facts.len()));
    fs::create_dir_all(&folder).expect("it can be made");
    let copy = folder.join("unibody");
    if !copy.exists() {
        // Processes run at the same time: whoever is first names the finished copy.
        let partial = folder.join(std::process::id().to_string());
        fs::copy(&built, &partial).expect("it can be copied");
        fs::rename(&partial, &copy).expect("it can be renamed");
    }
    copy
}

/// A new empty folder that the unprivileged user owns.
pub fn own_folder(name: &str) -> PathBuf {
    let folder = folder().join(name);
    fs::create_dir_all(&folder).expect("it can be made");
    if is_root() {
        chown(&folder, Some(NOBODY), Some(NOBODY)).expect("root may");
    }
    folder
}

/// A file with `bytes` that the unprivileged user can read.
pub fn own_file(name: &str, bytes: &[u8]) -> PathBuf {
    let file = own_folder("files").join(name);
    let partial = file.with_extension(std::process::id().to_string());
    fs::write(&partial, bytes).expect("it can be written");
    fs::set_permissions(&partial, fs::Permissions::from_mode(0o644)).expect("it is ours");
    fs::rename(&partial, &file).expect("it can be renamed");
    file
}

/// A command line that runs the program as an unprivileged user, its caches under `cache`.
pub fn as_user(cache: &Path, prefix: &[&str]) -> Command {
    let mut words: Vec<&OsStr> = prefix.iter().map(OsStr::new).collect();
    if is_root() {
        let drop = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
        words.extend(drop.map(OsStr::new));
    }
    let program = program();
    words.push(program.as_os_str());
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).env("XDG_CACHE_HOME", cache).env("HOME", cache);
    command.env("TERM", "xterm").current_dir("/").stdin(Stdio::null());
    command
}

/// A 64-bit ELF kernel that consists of `code`, loaded at 1 MiB.
pub fn tiny_kernel(code: &[u8]) -> Vec<u8> {
    const ENTRY: u64 = 0x10_0000;
    let mut elf = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    // An executable for x86-64; one program header behind this header.
    elf.extend(2_u16.to_le_bytes());
    elf.extend(62_u16.to_le_bytes());
    elf.extend(1_u32.to_le_bytes());
    for word in [ENTRY, 64, 0] {
        elf.extend(word.to_le_bytes());
    }
    elf.extend(0_u32.to_le_bytes());
    for half in [64_u16, 56, 1, 64, 0, 0] {
        elf.extend(half.to_le_bytes());
    }
    // A segment to be loaded, readable, writable and executable.
    elf.extend(1_u32.to_le_bytes());
    elf.extend(7_u32.to_le_bytes());
    let size = code.len() as u64;
    for word in [120, ENTRY, ENTRY, size, size, 0x1000] {
        elf.extend(word.to_le_bytes());
    }
    elf.extend(code);
    elf
}

const CACHE: &str = "UNIBODY_TEST_CACHE";

/// The tests' own cache.
pub fn cache() -> PathBuf {
    path_of(CACHE, || own_folder("cache"))
}

/// `unibody`, with the tests' own cache, into which has been pulled: what happens on the way to that is `pull`'s tests' to look at.
pub fn unibody() -> Command {
    static PULLED: Once = Once::new();
    PULLED.call_once(pull);
    as_user(&cache(), &[])
}

/// Pulls, unless that was done, by this version's `unibody`.
fn pull() {
    const FORMAT: &str = "\"format\": 4";
    let manifest = cache().join("unibody/current/manifest.json");
    let is_there = fs::read_to_string(manifest).is_ok_and(|text| text.contains(FORMAT));
    if is_there || std::env::var_os(CACHE).is_some() {
        return;
    }
    let mut pull = as_user(&cache(), &[]);
    let output = pull.arg("pull").output().expect("it can be started");
    assert!(output.status.success(), "{}", text(&output.stderr));
}

/// The folder of what was pulled: the kernel in `boot`, BusyBox in `bin`.
pub fn pulled() -> PathBuf {
    if std::env::var_os(CACHE).is_some() {
        return cache().join("unibody/current");
    }
    let mut pull = unibody();
    pull.arg("pull");
    let told = text(&finish(pull, b"").stdout);
    let folder = told.lines().find_map(|line| line.strip_prefix("folder")).expect("it says where");
    PathBuf::from(folder.trim())
}

/// Where other people's programs are kept, built; everyone can read it.
pub fn shelf() -> userland::Shelf {
    let shelf = path_of("UNIBODY_TEST_SHELF", || folder().join("built"));
    userland::Shelf::new(&shelf).expect("it can be written")
}

/// The engine that guests run on, and its options: the software CPU unless the environment says otherwise, for tests are not
/// about what else the machine has that they run on.
fn engine_words() -> impl Iterator<Item = &'static str> {
    static ENGINE: OnceLock<String> = OnceLock::new();
    let said = || std::env::var("UNIBODY_TEST_ENGINE").unwrap_or_else(|_| "soft".into());
    ENGINE.get_or_init(said).split_whitespace()
}

/// The engine that guests run on.
pub fn engine() -> &'static str {
    engine_words().next().expect("UNIBODY_TEST_ENGINE names one")
}

/// `run` on the engine that is tested, with BusyBox for a root: what is about the host's is `root.rs`' to look at.
pub fn run() -> Vec<&'static str> {
    let words = run_as_usual();
    words.into_iter().chain(["--root", "none"]).collect()
}

/// `run` on the engine that is tested, with the root that it has if nothing is said.
pub fn run_as_usual() -> Vec<&'static str> {
    ["run", "--engine"].into_iter().chain(engine_words()).collect()
}

/// `run` on the software CPU, for what is about that alone.
pub const SOFT: [&str; 5] = ["run", "--engine", "soft", "--root", "none"];

/// `unibody run -- sh -c SCRIPT`.
pub fn shell(script: &str) -> Command {
    let mut command = unibody();
    command.args(run()).args(["--", "sh", "-c", script]);
    command
}

/// Runs a command to its end, with `input` as its stdin. Fails after [`limit`].
pub fn finish(command: Command, input: &[u8]) -> Output {
    finish_within(limit(), command, input)
}

/// Runs a command to its end, with `input` as its stdin. Fails after `limit`.
pub fn finish_within(limit: Duration, mut command: Command, input: &[u8]) -> Output {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("it can be started");
    let mut stdin = child.stdin.take().expect("piped");
    let input = input.to_vec();
    // Whoever does not read all of it closes the pipe.
    let writer = std::thread::spawn(move || drop(stdin.write_all(&input)));
    let stdout = collect(child.stdout.take().expect("piped"));
    let stderr = collect(child.stderr.take().expect("piped"));
    let status = wait_within(limit, &mut child, &command);
    let output = Output {
        status,
        stdout: stdout.join().expect("read"),
        stderr: stderr.join().expect("read"),
    };
    writer.join().expect("written");
    output
}

/// Waits for the end of a process. Fails after [`limit`].
pub fn wait(child: &mut Child, command: &Command) -> std::process::ExitStatus {
    wait_within(limit(), child, command)
}

fn wait_within(limit: Duration, child: &mut Child, command: &Command) -> std::process::ExitStatus {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait().expect("it is our child") {
            return status;
        }
        if start.elapsed() > limit {
            let _ = child.kill();
            panic!("{command:?} did not end within {limit:?}");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn collect(mut from: impl Read + Send + 'static) -> JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = from.read_to_end(&mut bytes);
        bytes
    })
}

/// Runs a command without input and gives its exit status, stdout and stderr.
pub fn outcome(command: Command) -> (Option<i32>, String, String) {
    let output = finish(command, b"");
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

/// Bytes as text, whatever they are.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A process on a terminal of its own.
pub struct OnTerminal {
    child: Child,
    command: Command,
    keys: std::process::ChildStdin,
    screen: Arc<Mutex<Vec<u8>>>,
    reader: JoinHandle<()>,
}

impl OnTerminal {
    /// Runs a shell script on a new terminal. `$RUN` is the program's `run` on the engine that is tested, as an unprivileged
    /// user.
    pub fn start(script: &str) -> Self {
        let inner = unibody();
        let words = std::iter::once(inner.get_program()).chain(inner.get_args());
        let words: Vec<_> = words.map(|word| word.to_string_lossy().into_owned()).collect();
        let mut command = Command::new("script");
        command.args(["--quiet", "--return", "--command", script, "/dev/null"]);
        command.env("RUN", format!("{} {}", words.join(" "), run().join(" ")));
        command.env("TERM", "xterm").env("XDG_CACHE_HOME", cache()).env("SHELL", "/bin/sh");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().expect("script is part of every Debian");
        let keys = child.stdin.take().expect("piped");
        let screen = Arc::new(Mutex::new(Vec::new()));
        let mut shown = child.stdout.take().expect("piped");
        let copy = Arc::clone(&screen);
        let reader = std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = shown.read(&mut buffer) {
                copy.lock().expect("no panic").extend_from_slice(&buffer[..count]);
            }
        });
        Self { child, command, keys, screen, reader }
    }

    /// What was shown so far.
    pub fn shown(&self) -> String {
        text(&self.screen.lock().expect("no panic"))
    }

    /// Waits until `what` was shown. Fails after [`limit`], or when nothing more can be.
    pub fn wait_for(&self, what: &str) {
        let start = Instant::now();
        loop {
            let over = self.reader.is_finished() || start.elapsed() > limit();
            let shown = self.shown();
            if shown.contains(what) {
                return;
            }
            assert!(!over, "'{what}' was not shown, but:\n{shown}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Types.
    pub fn type_keys(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).expect("the terminal is there");
        self.keys.flush().expect("the terminal is there");
    }

    /// Sends SIGTERM to the program that runs on the terminal.
    pub fn terminate_program(&self) {
        let program = program();
        let below = descendants(self.child.id());
        let ours =
            |pid: &&u32| fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe == program);
        let pid = below.iter().find(ours).expect("it runs on the terminal");
        let status = Command::new("kill").args(["-TERM", &pid.to_string()]).status();
        assert!(status.expect("kill is part of every Debian").success());
    }

    /// Waits for the end and gives the exit status.
    pub fn end(mut self) -> (Option<i32>, String) {
        let status = wait(&mut self.child, &self.command);
        (status.code(), self.shown())
    }
}

/// The processes below `pid`.
fn descendants(pid: u32) -> Vec<u32> {
    let mut found = vec![pid];
    let mut next = 0;
    while let Some(parent) = found.get(next) {
        let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"));
        let children = children.unwrap_or_default();
        found.extend(children.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
        next += 1;
    }
    found
}
