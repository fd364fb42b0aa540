//! The command line: [`Cli`].

use std::ffi::OsString;
use std::num::NonZeroU32;
use std::path::PathBuf;

use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{Args, Parser, Subcommand, ValueEnum};
use hv::in_process::Modes;

use crate::devices::{disk, net, share};
use crate::root;

const EXAMPLES: &str = "\
Examples:
  unibody run                          your shell in a guest that has this machine's files for its
                                       root, to read and to spoil its own view of (Ctrl-a x quits)
  unibody run --rw . -- make test      a command that may write to this directory
  echo hi | unibody run -- wc -c       in a pipe
  unibody run --kernel arch/x86/boot/bzImage -- ./my-test
                                       on a kernel that you have built, with its modules
  unibody run --root none              BusyBox, and nothing of the host's
  unibody run --net user -p 8080:80    with a network, and a server in the guest at localhost:8080
  unibody pull                         get the distribution's current kernel
  unibody with-kvm -- qemu-system-x86_64 -accel kvm -M microvm
                                       a program that needs /dev/kvm, where there is none
  unibody doctor                       what works here

Exit status: the guest command's own; 128 + N if signal N ended it; 125 if Unibody failed; 2 if it
was called in a wrong way.";

const DOCTOR: &str = "\
The JSON is one object, sizes in bytes, null for what is not known:
  format        1; it changes when a field below changes its name or meaning
  version       Unibody's
  processor     vendor, model, level and guest_level (of x86-64, 1 to 4), guest_has and
                guest_lacks (extensions, with the names of /proc/cpuinfo)
  engines       of each: name, about, state (ready, unfit, absent, not-permitted, failed),
                detail, fix, and probe, which is what a tiny guest has shown: checks (of each:
                name, result (right, wrong, nothing), detail), instructions_per_second,
                milliseconds; null if it was not tried
  choice        engine and reason; null if none can run a guest
  memory        total, available
  cores         how many may be used
  distribution  name, has_apt
  cache         folder, kernel (the release that was pulled), size
With --kvm it is
  format        1
  version       Unibody's
  capabilities  of each: name, number, value (what KVM_CHECK_EXTENSION answers; 0: it is not there)
  ioctls        of each: name, number, of (device, vm, vcpu)

Exit status: 0 if a guest can be run here, 125 if not.";

/// Runs virtual machines on any Linux machine: no root, no /dev/kvm, nothing to set up.
#[derive(Debug, Parser)]
#[command(name = "unibody", version, after_help = EXAMPLES)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

/// What is to be done.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Boot a guest and run a command in it
    Run(Box<Run>),
    /// Get the distribution's current kernel and BusyBox, for `run` to use
    #[command(after_help = "They are kept in $XDG_CACHE_HOME/unibody (~/.cache/unibody).")]
    Pull(Pull),
    /// Run a program that finds this hypervisor at /dev/kvm
    WithKvm(WithKvm),
    /// Show what this machine can do, what Unibody would use, and why
    #[command(after_help = DOCTOR)]
    Doctor(Doctor),
    /// Serve a folder to a guest: what `run --share` executes
    #[command(name = SHARE_SERVER, hide = true)]
    ShareServer(ShareServer),
}

/// The verb that no person types.
pub(crate) const SHARE_SERVER: &str = "share-server";

/// Options of that.
#[derive(Args, Debug)]
pub(crate) struct ShareServer {
    /// Change nothing
    #[arg(long)]
    pub(crate) read_only: bool,

    /// The same, of a folder over which a guest lays its own changes
    #[arg(long)]
    pub(crate) lower: bool,
}

/// Options of `unibody run`.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Run {
    /// Boot this kernel (a bzImage, an ELF vmlinux, a Multiboot kernel) instead of the distribution's.
    ///
    /// A Multiboot 1 kernel (ELF, or with load addresses in its header) gets nothing of Linux's: its
    /// command line is FILE and --cmdline, --initrd its module. Its first serial port is this terminal,
    /// or stdin and stdout, and COMMAND can't be given.
    #[arg(long, value_name = "FILE")]
    pub(crate) kernel: Option<PathBuf>,

    /// Use this initial file system (cpio, compressed or not) instead of BusyBox's.
    ///
    /// The command runs in it; Unibody puts its own /init in, unless --cmdline has rdinit= or init=:
    /// then the guest's console is this terminal, or stdin and stdout, and COMMAND can't be given.
    #[arg(long, value_name = "FILE")]
    pub(crate) initrd: Option<PathBuf>,

    /// Take the kernel's modules out of this folder, where `make modules_install` has put them.
    ///
    /// It is INSTALL_MOD_PATH, or lib/modules/RELEASE in it. The drivers for virtio's devices are loaded before the command runs; file systems
    /// when they are mounted. The distribution's kernel has its own modules. One given with --kernel has those of the tree that it was built in
    /// (TREE/arch/x86/boot/bzImage, TREE/vmlinux), or of /lib/modules if it is in /boot, and else none if this isn't.
    #[arg(long, value_name = "DIR")]
    pub(crate) modules: Option<PathBuf>,

    /// Add this to the kernel's command line; may be given more than once
    #[arg(long, value_name = "TEXT")]
    pub(crate) cmdline: Vec<String>,

    /// Memory of the guest, for example 512M or 2G
    #[arg(long, value_name = "SIZE", default_value = "512M", value_parser = parse_size)]
    pub(crate) memory: u64,

    /// Number of the guest's processors
    #[arg(long, value_name = "N", default_value = "1")]
    pub(crate) cpus: NonZeroU32,

    /// Give the guest a disk: an image, or a block device of the host's; may be given more than once.
    ///
    /// The guest has the first as /dev/vda. Options are format=raw and format=qcow2 (if nothing is said, by the name: qcow2 if that ends in
    /// .qcow2), ro (nothing is written), ephemeral (what is written is gone at the end), and direct (past the host's page cache). A raw image
    /// that is made larger while the guest runs is larger for the guest, too.
    #[arg(long, value_name = "FILE[,OPTION...]", value_parser = OsStringValueParser::new().try_map(|text| disk::parse(&text)))]
    pub(crate) disk: Vec<vmm::disk::Options>,

    /// What the guest's root is: this machine's files if nothing is said, another folder's, or none of the host's.
    ///
    /// The guest finds the files of DIR as you may read them, and what it writes is in its own memory, over them, and gone at the end: nothing
    /// that it does reaches the host's. Its /dev, /proc, /run, /sys and /tmp are its own, and of the host's those can't be read. The command
    /// runs as you, with your groups, in this directory, with what of your environment such programs need (PATH, HOME, SHELL, TERM, the locale,
    /// an editor, compilers and their flags; no agents or sessions of this machine's). `none` is BusyBox's file system, in which root
    /// runs it. The guest's kernel needs virtio-fs and overlay (CONFIG_FUSE_FS, CONFIG_VIRTIO_FS, CONFIG_OVERLAY_FS); one that lacks them
    /// has BusyBox's root if none was asked for, and so has one with an --initrd.
    #[arg(long, value_name = "DIR|none", value_parser = OsStringValueParser::new().map(|text| root::parse(&text)))]
    pub(crate) root: Option<root::Choice>,

    /// Let the guest write to this folder of the host's; may be given more than once.
    ///
    /// It has it at the same path, as --share does it.
    #[arg(long, value_name = "DIR")]
    pub(crate) rw: Vec<PathBuf>,

    /// Who runs the command in the guest: you if the root is the host's, root if not.
    ///
    /// The guest's root may do what it likes there. On the host it is still you who reads, and who writes to --rw and --share.
    #[arg(long, value_enum)]
    pub(crate) user: Option<User>,

    /// Share a folder with the guest; may be given more than once.
    ///
    /// The guest has the folder HOST at its path GUEST; with ro it can't change it. What is done there is done as you, by a process that can
    /// reach nothing but the folder: what you may not read, no guest can, and what its programs make is yours, whoever they run as. Programs
    /// that wait for changes (inotify) hear of the guest's own, and not of the host's. The guest's kernel needs virtio-fs
    /// (CONFIG_FUSE_FS, CONFIG_VIRTIO_FS). To an init of your own (rdinit= in --cmdline) the folders are virtiofs with the tags share0,
    /// share1 and so on.
    #[arg(long, value_name = "HOST:GUEST[,ro]", value_parser = OsStringValueParser::new().try_map(|text| share::parse(&text)))]
    pub(crate) share: Vec<share::Share>,

    /// Connect programs in the guest and on the host by sockets (vsock).
    ///
    /// PATH is made a Unix socket. Who connects to it and says `CONNECT PORT` in a line reaches the program in the guest that listens at that
    /// port, and hears `OK` and a number when it has accepted. The guest has address 3, the host 2: a program in the guest that connects to the
    /// host's port P reaches the one that listens at the Unix socket PATH_P. At the end the socket is removed.
    #[arg(long, value_name = "PATH")]
    pub(crate) vsock: Option<PathBuf>,

    /// Connect the guest to a network; none if nothing is said.
    ///
    /// `user` needs no privilege and nothing set up: connections, datagrams and names go out by this program's own sockets, as the person who runs
    /// it. The guest is 10.0.2.15, its router 10.0.2.2, which is also how it reaches servers on the host's loopback, and the resolver of
    /// names 10.0.2.3: the host's, or another with `user,dns=ADDRESS[:PORT]`. To ping other machines the host has to let users do so
    /// (net.ipv4.ping_group_range). tap=NAME is a TAP interface of the host's that belongs to this user (ip tuntap add dev NAME mode tap user
    /// NAME); the guest asks for its address there by DHCP.
    #[arg(long, value_name = "none|user|tap=NAME", value_parser = net::parse)]
    pub(crate) net: Option<net::Choice>,

    /// Have a port of the host's lead to one of the guest's; may be given more than once, and implies --net user.
    ///
    /// It is one of 127.0.0.1 unless an address is given: `[::1]:8080:80`, or `*:8080:80` for all IPv4 addresses. With /udp
    /// behind it is for datagrams.
    #[arg(long, short, value_name = "[ADDRESS:]HOST:GUEST[/udp]", value_parser = net::parse_port)]
    pub(crate) publish: Vec<user_net::publish::Port>,

    /// What carries the command's input and output.
    ///
    /// On the virtio console the guest also has /dev/hvc0, which is the same as its first serial port but faster, and follows the
    /// terminal's size: console=hvc0 in --cmdline has the kernel use it.
    #[arg(long, value_enum, default_value = "virtio")]
    pub(crate) console: Console,

    /// Let the guest end by a write to port 0xf4, as with QEMU's isa-debug-exit.
    ///
    /// After a write of N the exit status is N * 2 + 1, of which the low 8 bits.
    #[arg(long)]
    pub(crate) isa_debug_exit: bool,

    /// What runs the guest
    #[arg(long, value_enum, default_value = "auto")]
    pub(crate) engine: Engine,

    /// Where the guest's interrupt controllers are on KVM; in the kernel if nothing is said.
    ///
    /// The guest sees the same. If `--engine auto` takes the software CPU, which has its own, it changes nothing.
    #[arg(long, value_enum)]
    pub(crate) irqchip: Option<Irqchip>,

    /// Memory for code that the software CPU translates; 32M if nothing is said
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub(crate) jit_cache: Option<u64>,

    /// Translate no code: the software CPU interprets it, which is slower
    #[arg(long, conflicts_with = "jit_cache")]
    pub(crate) no_jit: bool,

    /// Check what translated code does: the software CPU interprets it, too.
    ///
    /// The run ends at the first instruction on which the two do not agree, and names it. Only with one
    /// processor; a guest takes about twenty times as long.
    #[arg(long, conflicts_with = "no_jit")]
    pub(crate) lockstep: bool,

    /// For tests: execute code otherwise than usual, which gives the same
    #[arg(long, value_name = "LIST", hide = true, default_value = "")]
    pub(crate) jit_mode: Modes,

    /// Show the kernel's messages, and what is done, on stderr
    #[arg(long, short, conflicts_with = "quiet")]
    pub(crate) verbose: bool,

    /// Show no progress
    #[arg(long, short)]
    pub(crate) quiet: bool,

    /// The command and its arguments; a shell if there is none
    #[arg(last = true, value_name = "COMMAND")]
    pub(crate) command: Vec<OsString>,
}

impl Run {
    /// What was asked for, if anything, that no other engine than the software CPU can do.
    pub(crate) fn software_cpu_only(&self) -> Option<&'static str> {
        let asked = [
            (self.lockstep, "--lockstep"),
            (self.no_jit, "--no-jit"),
            (self.jit_cache.is_some(), "--jit-cache"),
            (self.jit_mode != Modes::USUAL, "--jit-mode"),
        ];
        asked.into_iter().find_map(|(asked, option)| asked.then_some(option))
    }

    /// What was asked for, if anything, that no other engine than KVM can do.
    pub(crate) fn kvm_only(&self) -> Option<&'static str> {
        self.irqchip.map(|_| "--irqchip")
    }
}

const WITH_KVM: &str = "\
The program's guests run on the software CPU, in its own process: no /dev/kvm is needed, and one that is
there is not used. It has to be an x86-64 program that is linked with glibc dynamically: a library is
loaded into it. Its children find the same; to have them find the host's own /dev/kvm, take LD_PRELOAD
out of their environment.

Exit status: the program's own; 127 if it is not found, 126 if it can't be executed, 125 if Unibody
failed; 2 if it was called in a wrong way.";

/// Options of `unibody with-kvm`.
#[derive(Args, Debug)]
#[command(after_help = WITH_KVM)]
pub(crate) struct WithKvm {
    /// Memory for code that the software CPU translates, for each VM; 32M if nothing is said
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub(crate) jit_cache: Option<u64>,

    /// Translate no code: the software CPU interprets it, which is slower
    #[arg(long, conflicts_with = "jit_cache")]
    pub(crate) no_jit: bool,

    /// What processor guests are offered: a model of docs/cpu-models.md, such as unibody-intel-v3, or `host`; the best
    /// model if nothing is said
    #[arg(long, value_name = "MODEL")]
    pub(crate) cpu: Option<String>,

    /// The program and its arguments
    #[arg(last = true, required = true, value_name = "PROGRAM")]
    pub(crate) command: Vec<OsString>,
}

/// Options of `unibody pull`.
#[derive(Args, Debug)]
pub(crate) struct Pull {
    /// Show no progress
    #[arg(long, short)]
    pub(crate) quiet: bool,
}

/// Options of `unibody doctor`.
#[derive(Args, Debug)]
pub(crate) struct Doctor {
    /// Print it as JSON, for scripts
    #[arg(long)]
    pub(crate) json: bool,

    /// Show what of KVM's interface `unibody with-kvm` gives to programs
    #[arg(long)]
    pub(crate) kvm: bool,
}

/// What runs the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Engine {
    /// The fastest that does all right here; KVM is tried with a tiny guest once after each boot
    Auto,
    /// The software CPU, which works everywhere
    Soft,
    /// Linux's KVM (/dev/kvm), and nothing else
    Kvm,
    /// Unibody's own kernel module (/dev/unibody), and nothing else
    Unibody,
}

/// Who runs a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum User {
    /// Who calls this program
    Me,
    /// The guest's root
    Root,
}

/// What carries a command's input and output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Console {
    /// A virtio console; serial ports where the guest's kernel has no driver for it
    Virtio,
    /// Serial ports, which every kernel has a driver for and which carry a byte at a time
    Serial,
}

/// Where a guest's interrupt controllers are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Irqchip {
    /// All in the kernel, which costs the least
    Kernel,
    /// The local APICs in the kernel; the I/O APIC, the 8259s and the 8254 in this process
    Split,
}

impl From<Irqchip> for hv::Irqchip {
    fn from(irqchip: Irqchip) -> Self {
        match irqchip {
            Irqchip::Kernel => Self::Kernel,
            Irqchip::Split => Self::Split,
        }
    }
}

/// Reads a size: bytes, or a number and one of K, M, G and T, which are powers of 1024.
fn parse_size(text: &str) -> Result<u64, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| SIZE_FORM.to_string())?;
    let shift = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return Err(SIZE_FORM.to_string()),
    };
    number.checked_mul(1 << shift).ok_or_else(|| "it is too large".to_string())
}

const SIZE_FORM: &str = "a size is a number of bytes, or a number with K, M or G, such as 512M";

#[cfg(test)]
#[path = "cli_test.rs"]
mod cli_test;
