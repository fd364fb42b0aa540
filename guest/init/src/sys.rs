//! System calls that std doesn't offer, as safe functions. All `unsafe` of init is here.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use guest_protocol::{User, WindowSize};

/// Makes an error of the -1 that system calls return.
fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Mounts a file system: what of, of which type, and where.
pub(crate) fn mount(
    source: &[u8],
    kind: &str,
    target: &[u8],
    flags: libc::c_ulong,
    options: &str,
) -> io::Result<()> {
    let [source, target] = [source, target].map(CString::new);
    let [kind, options] = [kind, options].map(CString::new);
    let (source, kind, target, options) = (source?, kind?, target?, options?);
    // SAFETY: all four pointers are to strings that end with NUL and live through the call.
    check(unsafe {
        libc::mount(source.as_ptr(), target.as_ptr(), kind.as_ptr(), flags, options.as_ptr().cast())
    })?;
    Ok(())
}

/// Takes a file system from its place. Who uses it goes on.
pub(crate) fn detach(target: &str) -> io::Result<()> {
    let target = CString::new(target)?;
    // SAFETY: the pointer is to a string that ends with NUL and lives through the call.
    check(unsafe { libc::umount2(target.as_ptr(), libc::MNT_DETACH) })?;
    Ok(())
}

/// Loads the kernel's module that is in a file.
pub(crate) fn load_module(module: BorrowedFd<'_>) -> io::Result<()> {
    const FLAGS: libc::c_int = 0;
    // SAFETY: the pointer is to a string that ends with NUL and lives through the call.
    let result =
        unsafe { libc::syscall(libc::SYS_finit_module, module.as_raw_fd(), c"".as_ptr(), FLAGS) };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Sets the guest's name.
pub(crate) fn set_hostname(name: &[u8]) -> io::Result<()> {
    // SAFETY: pointer and length are those of a live slice.
    check(unsafe { libc::sethostname(name.as_ptr().cast(), name.len()) })?;
    Ok(())
}

/// Writes file systems out and switches the guest off.
pub(crate) fn power_off() -> ! {
    // SAFETY: neither call takes a pointer.
    unsafe {
        libc::sync();
        libc::reboot(libc::RB_POWER_OFF);
    }
    // A machine that can't be switched off: process 1 must not end, that would be a panic.
    loop {
        // SAFETY: takes nothing.
        unsafe { libc::pause() };
    }
}

/// Network cards, as far as they are to be set up.
pub(crate) struct Cards(OwnedFd);

/// `struct rtentry`, which the libc crate has not. See: Linux, include/uapi/linux/route.h.
#[repr(C)]
struct Route {
    pad1: libc::c_ulong,
    destination: libc::sockaddr,
    gateway: libc::sockaddr,
    mask: libc::sockaddr,
    flags: libc::c_ushort,
    pad2: libc::c_short,
    pad3: libc::c_ulong,
    pad4: *mut libc::c_void,
    metric: libc::c_short,
    device: *mut libc::c_char,
    mtu: libc::c_ulong,
    window: libc::c_ulong,
    timeout: libc::c_ushort,
}

/// An address of IPv4's as `struct sockaddr`. See: ip(7).
fn socket_address(address: [u8; 4]) -> libc::sockaddr {
    let mut data = [0; 14];
    for (to, from) in data[2..].iter_mut().zip(address) {
        *to = from as libc::c_char;
    }
    libc::sockaddr { sa_family: libc::AF_INET as libc::sa_family_t, sa_data: data }
}

impl Cards {
    /// Those that there are. A kernel without IPv4 has none.
    pub fn new() -> io::Result<Self> {
        let kind = libc::SOCK_DGRAM | libc::SOCK_CLOEXEC;
        // SAFETY: takes no pointer.
        let fd = check(unsafe { libc::socket(libc::AF_INET, kind, 0) })?;
        // SAFETY: a descriptor that was just made and that nothing else owns.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    fn request(
        &self,
        card: &str,
        request: libc::c_ulong,
        what: libc::__c_anonymous_ifr_ifru,
    ) -> io::Result<()> {
        let mut all = libc::ifreq { ifr_name: [0; libc::IFNAMSIZ], ifr_ifru: what };
        // The last byte is its end.
        for (to, from) in all.ifr_name[..libc::IFNAMSIZ - 1].iter_mut().zip(card.bytes()) {
            *to = from as libc::c_char;
        }
        // SAFETY: each of these calls reads a `struct ifreq`, to which the pointer is.
        check(unsafe { libc::ioctl(self.0.as_raw_fd(), request as _, &raw const all) })?;
        Ok(())
    }

    /// Gives a card its address, and says how many bits of that are its network's.
    pub fn set_address(&self, card: &str, address: [u8; 4], prefix: u8) -> io::Result<()> {
        let mask = u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0);
        for (request, bytes) in
            [(libc::SIOCSIFADDR, address), (libc::SIOCSIFNETMASK, mask.to_be_bytes())]
        {
            let ifru_addr = socket_address(bytes);
            self.request(card, request, libc::__c_anonymous_ifr_ifru { ifru_addr })?;
        }
        Ok(())
    }

    /// Says how large its packets may be.
    pub fn set_mtu(&self, card: &str, mtu: u16) -> io::Result<()> {
        let ifru_mtu = mtu.into();
        self.request(card, libc::SIOCSIFMTU, libc::__c_anonymous_ifr_ifru { ifru_mtu })
    }

    /// Has it work.
    pub fn set_up(&self, card: &str) -> io::Result<()> {
        let ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
        self.request(card, libc::SIOCSIFFLAGS, libc::__c_anonymous_ifr_ifru { ifru_flags })
    }

    /// Sends what is for no network of its own to this router.
    pub fn set_gateway(&self, gateway: [u8; 4]) -> io::Result<()> {
        let route = Route {
            pad1: 0,
            destination: socket_address([0; 4]),
            gateway: socket_address(gateway),
            mask: socket_address([0; 4]),
            flags: libc::RTF_UP | libc::RTF_GATEWAY,
            pad2: 0,
            pad3: 0,
            pad4: std::ptr::null_mut(),
            metric: 0,
            device: std::ptr::null_mut(),
            mtu: 0,
            window: 0,
            timeout: 0,
        };
        // SAFETY: the call reads a `struct rtentry`, to which the pointer is; the one in it is null.
        check(unsafe { libc::ioctl(self.0.as_raw_fd(), libc::SIOCADDRT as _, &raw const route) })?;
        Ok(())
    }
}

/// Makes a serial line a path for bytes: 8 bits, no echo, nothing translated, RTS/CTS.
pub(crate) fn set_raw(fd: BorrowedFd<'_>) -> io::Result<()> {
    let mut termios = MaybeUninit::<libc::termios>::uninit();
    // SAFETY: the pointer is to writable memory of the right type.
    check(unsafe { libc::tcgetattr(fd.as_raw_fd(), termios.as_mut_ptr()) })?;
    // SAFETY: the call above succeeded and filled it in.
    let mut termios = unsafe { termios.assume_init() };
    // SAFETY: works on a value of ours.
    unsafe { libc::cfmakeraw(&mut termios) };
    // cfsetspeed's symbol is versioned in the libc crate, which a static program can't link.
    termios.c_cflag = (termios.c_cflag & !libc::CBAUD) | libc::B115200;
    // No input flag at all is what lets the kernel copy instead of looking at each byte.
    termios.c_iflag = 0;
    termios.c_cflag |= libc::CLOCAL | libc::CREAD | libc::CRTSCTS;
    termios.c_cc[libc::VMIN] = 1;
    termios.c_cc[libc::VTIME] = 0;
    // SAFETY: the pointer is to a live termios.
    check(unsafe { libc::tcsetattr(fd.as_raw_fd(), libc::TCSANOW, &termios) })?;
    Ok(())
}

/// Waits until a terminal's or serial line's output is out.
pub(crate) fn drain(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: takes no pointer.
    check(unsafe { libc::tcdrain(fd.as_raw_fd()) })?;
    Ok(())
}

/// Makes reads and writes return `WouldBlock` instead of waiting.
pub(crate) fn set_nonblocking(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: F_GETFL and F_SETFL take integers.
    unsafe {
        let flags = check(libc::fcntl(fd.as_raw_fd(), libc::F_GETFL))?;
        check(libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, flags | libc::O_NONBLOCK))?;
    }
    Ok(())
}

/// Returns how many bytes a pipe holds.
pub(crate) fn pending(fd: BorrowedFd<'_>) -> io::Result<u64> {
    let mut count: libc::c_int = 0;
    // SAFETY: FIONREAD writes one int.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::FIONREAD, &mut count) })?;
    Ok(count.unsigned_abs().into())
}

/// Makes an entry for [`poll`]. Without `events` it still tells of errors; without `fd` of nothing.
pub(crate) fn poll_fd(fd: Option<BorrowedFd<'_>>, events: libc::c_short) -> libc::pollfd {
    libc::pollfd { fd: fd.map_or(-1, |fd| fd.as_raw_fd()), events, revents: 0 }
}

/// Waits until something happens on one of the descriptors.
pub(crate) fn poll(fds: &mut [libc::pollfd]) -> io::Result<()> {
    // SAFETY: pointer and length are those of a live slice; its length is single-digit.
    match check(unsafe { libc::poll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, -1) }) {
        Err(error) if error.kind() != io::ErrorKind::Interrupted => Err(error),
        _ => Ok(()),
    }
}

/// Tells when the kernel has found a device, or learned more of one.
pub(crate) struct DeviceEvents(OwnedFd);

impl DeviceEvents {
    /// From now on. A kernel without sockets has none.
    pub fn new() -> io::Result<Self> {
        const KERNEL: u32 = 1;
        let kind = libc::SOCK_DGRAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        // SAFETY: takes no pointer.
        let fd =
            check(unsafe { libc::socket(libc::AF_NETLINK, kind, libc::NETLINK_KOBJECT_UEVENT) })?;
        // SAFETY: a descriptor that was just made and that nothing else owns.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        // SAFETY: all zeroes are a valid address.
        let mut address: libc::sockaddr_nl = unsafe { MaybeUninit::zeroed().assume_init() };
        address.nl_family = libc::AF_NETLINK as libc::sa_family_t;
        address.nl_groups = KERNEL;
        let size = size_of_val(&address) as libc::socklen_t;
        // SAFETY: pointer and length are those of a live address.
        check(unsafe { libc::bind(fd, (&raw const address).cast(), size) })?;
        Ok(Self(socket))
    }

    /// Waits until something has happened since the last time, or for so long. What it was is to be looked for.
    pub fn wait(&self, most: std::time::Duration) {
        let milliseconds = libc::c_int::try_from(most.as_millis()).unwrap_or(libc::c_int::MAX);
        let mut entry = poll_fd(Some(self.0.as_fd()), libc::POLLIN);
        let mut message = [0_u8; 64];
        // SAFETY: the first pointer is to one live entry; the other, with its length, to a live array. No message, or an error, is as
        // good: whoever waits looks again.
        unsafe {
            libc::poll(&mut entry, 1, milliseconds.max(1));
            while libc::recv(self.0.as_raw_fd(), message.as_mut_ptr().cast(), message.len(), 0) > 0
            {
            }
        }
    }
}

/// Tells when processes have ended or stopped, as something that can be polled.
pub(crate) struct ChildEvents(File);

/// What happened to a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ChildEvent {
    /// It ended by itself.
    Exited(u8),
    /// A signal ended it.
    Killed(u8),
    /// A signal stopped it.
    Stopped(libc::c_int),
}

impl ChildEvents {
    pub fn new() -> io::Result<Self> {
        let mut mask = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: sigemptyset fills the set in before the other calls read it; a null pointer for
        // the old mask is allowed.
        let fd = unsafe {
            libc::sigemptyset(mask.as_mut_ptr());
            libc::sigaddset(mask.as_mut_ptr(), libc::SIGCHLD);
            check(libc::sigprocmask(libc::SIG_BLOCK, mask.as_ptr(), std::ptr::null_mut()))?;
            check(libc::signalfd(-1, mask.as_ptr(), libc::SFD_CLOEXEC | libc::SFD_NONBLOCK))?
        };
        // SAFETY: a descriptor that was just made and that nothing else owns.
        Ok(Self(unsafe { File::from_raw_fd(fd) }))
    }

    /// Takes note of the signal. To be called before [`Self::next`] is called until `None`.
    pub fn clear(&self) {
        let mut info = [0; size_of::<libc::signalfd_siginfo>()];
        // Signals of one kind don't queue: there is at most one. None is no error.
        let _ = io::Read::read(&mut &self.0, &mut info);
    }

    /// Returns the next event and whose it is. Any process without a parent is init's child.
    pub fn next(&self) -> Option<(libc::pid_t, ChildEvent)> {
        loop {
            let mut status = 0;
            // SAFETY: the pointer is to a live int.
            let pid = unsafe { libc::waitpid(-1, &mut status, libc::WNOHANG | libc::WUNTRACED) };
            if pid <= 0 {
                return None;
            }
            // The masks are the definition of these parts of a status: nothing is cut off.
            if libc::WIFEXITED(status) {
                return Some((pid, ChildEvent::Exited((libc::WEXITSTATUS(status) & 0xff) as u8)));
            } else if libc::WIFSIGNALED(status) {
                return Some((pid, ChildEvent::Killed((libc::WTERMSIG(status) & 0x7f) as u8)));
            } else if libc::WIFSTOPPED(status) {
                return Some((pid, ChildEvent::Stopped(libc::WSTOPSIG(status))));
            }
        }
    }
}

impl AsFd for ChildEvents {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Sends a signal to all processes of a group.
pub(crate) fn signal_group(group: libc::pid_t, signal: libc::c_int) {
    // SAFETY: takes no pointer. A group that is gone already is no error to anybody.
    unsafe { libc::kill(-group, signal) };
}

/// Makes a pair of pseudo-terminals: ours, and the one for the command.
pub(crate) fn open_pty() -> io::Result<(File, File)> {
    let master = File::options().read(true).write(true).open("/dev/ptmx")?;
    let fd = master.as_raw_fd();
    let unlock: libc::c_int = 0;
    // SAFETY: TIOCSPTLCK reads one int; TIOCGPTPEER takes open's flags and returns a descriptor.
    let slave = unsafe {
        check(libc::ioctl(fd, libc::TIOCSPTLCK, &unlock))?;
        check(libc::ioctl(fd, libc::TIOCGPTPEER, libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC))?
    };
    // SAFETY: a descriptor that was just made and that nothing else owns.
    let slave = unsafe { OwnedFd::from_raw_fd(slave) };
    Ok((master, File::from(slave)))
}

/// Makes this process the leader of a session whose terminal is this one.
pub(crate) fn control_terminal(terminal: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: neither call takes a pointer. setsid fails in a process that leads a session already,
    // which is as good.
    unsafe {
        libc::setsid();
        check(libc::ioctl(terminal.as_raw_fd(), libc::TIOCSCTTY, 0))?;
    }
    Ok(())
}

/// Says that a terminal's input is UTF-8, so that a backspace removes a whole character.
pub(crate) fn set_utf8(terminal: BorrowedFd<'_>) -> io::Result<()> {
    let mut termios = MaybeUninit::<libc::termios>::uninit();
    // SAFETY: the pointer is to writable memory of the right type, and is used after success only.
    unsafe {
        check(libc::tcgetattr(terminal.as_raw_fd(), termios.as_mut_ptr()))?;
        let mut termios = termios.assume_init();
        termios.c_iflag |= libc::IUTF8;
        check(libc::tcsetattr(terminal.as_raw_fd(), libc::TCSANOW, &termios))?;
    }
    Ok(())
}

/// Sets a terminal's size; the kernel tells the processes in its foreground.
pub(crate) fn set_window_size(terminal: BorrowedFd<'_>, size: WindowSize) -> io::Result<()> {
    let size = libc::winsize { ws_row: size.rows, ws_col: size.cols, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCSWINSZ reads one winsize.
    check(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSWINSZ, &size) })?;
    Ok(())
}

/// Gives a process that is about to become another program the signal mask that programs expect.
/// To be called between fork and exec: [`ChildEvents`] blocks a signal, and masks are inherited.
fn unblock_signals() -> io::Result<()> {
    let mut mask = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigemptyset fills the set in before it is read; the old mask may be null. Both
    // functions are async-signal-safe.
    unsafe {
        libc::sigemptyset(mask.as_mut_ptr());
        check(libc::sigprocmask(libc::SIG_SETMASK, mask.as_ptr(), std::ptr::null_mut()))?;
    }
    Ok(())
}

/// Makes a command the leader of a session of its own, without a terminal.
pub(crate) fn in_new_session(command: &mut Command) {
    // SAFETY: between fork and exec the closure makes system calls only, which are
    // async-signal-safe, and touches no memory but its own.
    unsafe {
        command.pre_exec(|| {
            unblock_signals()?;
            check(libc::setsid())?;
            Ok(())
        })
    };
}

/// Makes a command a process group of its own, in the foreground of this process's terminal.
pub(crate) fn in_foreground(command: &mut Command, terminal: RawFd) {
    // SAFETY: between fork and exec the closure makes system calls only, which are
    // async-signal-safe, and touches no memory but its own.
    unsafe {
        command.pre_exec(move || {
            unblock_signals()?;
            check(libc::setpgid(0, 0))?;
            // A process in the background that asks for the foreground would be stopped.
            libc::signal(libc::SIGTTOU, libc::SIG_IGN);
            let result = check(libc::tcsetpgrp(terminal, libc::getpid()));
            libc::signal(libc::SIGTTOU, libc::SIG_DFL);
            result.map(drop)
        })
    };
}

/// Has a command run as this user. std has no way to give it groups.
pub(crate) fn as_user(command: &mut Command, user: &User) {
    let User { uid, gid, groups } = user.clone();
    // SAFETY: between fork and exec the closure makes system calls only, which are async-signal-safe in a process of one thread, and touches no
    // memory but its own; pointer and length are those of a live list.
    unsafe {
        command.pre_exec(move || {
            check(libc::setgroups(groups.len(), groups.as_ptr()))?;
            check(libc::setresgid(gid, gid, gid))?;
            check(libc::setresuid(uid, uid, uid))?;
            Ok(())
        })
    };
}
