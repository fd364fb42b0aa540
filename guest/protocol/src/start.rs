//! What is to be run, by whom, in which file system: [`Start`], the payload of `ToGuest::Start`.

use crate::frame::DecodeError;
use crate::message::WindowSize;
use crate::wire::{Reader, Writer};

/// What to run and how.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Start {
    /// The program, looked up in `PATH` as a shell does, and its arguments. Empty: an interactive shell.
    pub argv: Vec<Vec<u8>>,
    /// Environment variables, names and values, on top of init's defaults.
    pub env: Vec<(Vec<u8>, Vec<u8>)>,
    /// The working directory; if not given, the user's home.
    pub cwd: Option<Vec<u8>>,
    /// Who runs it; if not given, root.
    pub user: Option<User>,
    /// Given if the command gets a terminal. Otherwise its stdin, stdout and stderr are pipes.
    pub terminal: Option<Terminal>,
    /// The guest's name.
    pub hostname: Vec<u8>,
    /// What is to be mounted before that.
    pub mounts: Vec<Mount>,
    /// How the guest's network card is set up, if it has one.
    pub network: Option<Network>,
    /// What is the root for all of the above; if not given, the initial file system.
    pub root: Option<Root>,
}

/// A folder of the host's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// What the device is known by that has it.
    pub tag: Vec<u8>,
    /// The path that it is to have: a full one.
    pub target: Vec<u8>,
    /// What may be done there.
    pub access: Access,
}

/// What a guest may do with a folder of the host's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Read, and write what the host then has.
    ReadWrite,
    /// Read.
    ReadOnly,
    /// Read, and write what is the guest's own, over what the host has.
    CopyOnWrite,
}

/// A folder of the host's that is the guest's root, over which lies what the guest writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Root {
    /// What the device is known by that has it.
    pub tag: Vec<u8>,
    /// Whether the command is not to be run without it. Else it is run in the initial file system where the guest's kernel lacks what that
    /// takes, as root, and without working directory and environment, which are of this root.
    pub is_needed: bool,
}

/// How a network card is set up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Network {
    /// As the network tells, if it does (DHCP).
    Ask,
    /// As is said here.
    Told(Addresses),
}

/// Who has which address in a network of IPv4's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Addresses {
    /// The guest.
    pub guest: [u8; 4],
    /// How many bits of that are the network's.
    pub prefix: u8,
    /// The router.
    pub gateway: [u8; 4],
    /// Who is asked for names.
    pub dns: [u8; 4],
    /// Domains in which they are looked for.
    pub search: Vec<Vec<u8>>,
    /// The largest packet.
    pub mtu: u16,
}

/// A user by numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// The user's number.
    pub uid: u32,
    /// The group's number.
    pub gid: u32,
    /// The numbers of the user's other groups.
    pub groups: Vec<u32>,
}

/// The command's terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terminal {
    /// The window's size at the start.
    pub size: WindowSize,
    /// Whether stderr is a pipe all the same, because the host's stderr goes elsewhere.
    pub stderr_apart: bool,
}

impl Start {
    /// Appends its fields.
    pub(crate) fn write(&self, out: &mut Writer<'_>) {
        out.length(self.argv.len());
        for argument in &self.argv {
            out.bytes(argument);
        }
        out.length(self.env.len());
        for (name, value) in &self.env {
            out.bytes(name);
            out.bytes(value);
        }
        out.option(self.cwd.as_deref(), |out, cwd| out.bytes(cwd));
        out.option(self.user.as_ref(), |out, user| {
            out.u32(user.uid);
            out.u32(user.gid);
            out.length(user.groups.len());
            user.groups.iter().for_each(|group| out.u32(*group));
        });
        out.option(self.terminal, |out, terminal| {
            terminal.size.write(out);
            out.u8(u8::from(terminal.stderr_apart));
        });
        out.bytes(&self.hostname);
        out.length(self.mounts.len());
        self.mounts.iter().for_each(|mount| mount.write(out));
        out.option(self.network.as_ref(), |out, network| match network {
            Network::Ask => out.u8(1),
            Network::Told(addresses) => {
                out.u8(2);
                addresses.write(out);
            }
        });
        out.option(self.root.as_ref(), |out, root| {
            out.bytes(&root.tag);
            out.u8(u8::from(root.is_needed));
        });
    }

    /// Takes its fields.
    pub(crate) fn read(fields: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            argv: fields.list(|fields| fields.bytes().map(<[u8]>::to_vec))?,
            env: fields.list(|fields| Ok((fields.bytes()?.to_vec(), fields.bytes()?.to_vec())))?,
            cwd: fields.option(|fields| fields.bytes().map(<[u8]>::to_vec))?,
            user: fields.option(|fields| {
                let (uid, gid) = (fields.u32()?, fields.u32()?);
                Ok(User { uid, gid, groups: fields.list(Reader::u32)? })
            })?,
            terminal: fields.option(|fields| {
                let size = WindowSize::read(fields)?;
                Ok(Terminal { size, stderr_apart: flag(fields, "terminal")? })
            })?,
            hostname: fields.bytes()?.to_vec(),
            mounts: fields.list(Mount::read)?,
            network: fields.option(|fields| match fields.u8()? {
                1 => Ok(Network::Ask),
                2 => Addresses::read(fields).map(Network::Told),
                _ => Err(DecodeError::Field("network")),
            })?,
            root: fields.option(|fields| {
                let tag = fields.bytes()?.to_vec();
                Ok(Root { tag, is_needed: flag(fields, "root")? })
            })?,
        })
    }

    /// Refuses what no process can be given.
    pub(crate) fn check(&self) -> Result<(), DecodeError> {
        let nul = |bytes: &[u8]| bytes.contains(&0);
        if self.argv.iter().any(|argument| nul(argument)) {
            return Err(DecodeError::Field("argument: it holds a NUL"));
        }
        for (name, value) in &self.env {
            if name.is_empty() || nul(name) || name.contains(&b'=') || nul(value) {
                return Err(DecodeError::Field("environment variable"));
            }
        }
        if self.cwd.as_ref().is_some_and(|cwd| cwd.is_empty() || nul(cwd)) {
            return Err(DecodeError::Field("working directory"));
        }
        // Linux's __NEW_UTS_LEN.
        if self.hostname.len() > 64 || nul(&self.hostname) {
            return Err(DecodeError::Field("host name"));
        }
        let is_path = |target: &[u8]| target.starts_with(b"/") && !nul(target);
        if self.mounts.iter().any(|mount| nul(&mount.tag) || !is_path(&mount.target)) {
            return Err(DecodeError::Field("mount"));
        }
        if self.root.as_ref().is_some_and(|root| nul(&root.tag)) {
            return Err(DecodeError::Field("root"));
        }
        if let Some(Network::Told(Addresses { prefix, search, .. })) = &self.network {
            // It becomes a line of a file.
            let is_word =
                |name: &Vec<u8>| !name.is_empty() && name.iter().all(u8::is_ascii_graphic);
            if *prefix > 32 || !search.iter().all(is_word) {
                return Err(DecodeError::Field("network"));
            }
        }
        Ok(())
    }
}

impl Mount {
    fn write(&self, out: &mut Writer<'_>) {
        out.bytes(&self.tag);
        out.bytes(&self.target);
        out.u8(match self.access {
            Access::ReadWrite => 0,
            Access::ReadOnly => 1,
            Access::CopyOnWrite => 2,
        });
    }

    fn read(fields: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            tag: fields.bytes()?.to_vec(),
            target: fields.bytes()?.to_vec(),
            access: match fields.u8()? {
                0 => Access::ReadWrite,
                1 => Access::ReadOnly,
                2 => Access::CopyOnWrite,
                _ => return Err(DecodeError::Field("mount")),
            },
        })
    }
}

impl Addresses {
    fn write(&self, out: &mut Writer<'_>) {
        for address in [self.guest, self.gateway, self.dns] {
            out.u32(u32::from_be_bytes(address));
        }
        out.u8(self.prefix);
        out.u16(self.mtu);
        out.length(self.search.len());
        for domain in &self.search {
            out.bytes(domain);
        }
    }

    fn read(fields: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let mut address = || fields.u32().map(u32::to_be_bytes);
        let (guest, gateway, dns) = (address()?, address()?, address()?);
        Ok(Self {
            guest,
            gateway,
            dns,
            prefix: fields.u8()?,
            mtu: fields.u16()?,
            search: fields.list(|fields| fields.bytes().map(<[u8]>::to_vec))?,
        })
    }
}

/// Reads whether something is so.
fn flag(fields: &mut Reader<'_>, of: &'static str) -> Result<bool, DecodeError> {
    match fields.u8()? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(DecodeError::Field(of)),
    }
}
