//! `--net` and `--publish`: from the words to a virtio-net device, and to what the guest is told of its network.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use guest_protocol::{Addresses, Network};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::rand::{GetRandomFlags, getrandom};
use user_net::address::{DNS, DNS_PORT, GATEWAY, GUEST, MTU, PREFIX};
use user_net::publish::{Port, Published, Transport};
use user_net::resolver::Resolver;
use vmm::virtio::Device;
use vmm::virtio::net::link::Cable;
use vmm::virtio::net::tap::Tap;
use vmm::virtio::net::user::User;
use vmm::virtio::net::{Mac, Net};

use crate::cli;
use crate::error::{Error, reason};
use crate::initramfs::HOSTNAME;

/// What the guest is connected to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Choice {
    /// Nothing.
    None,
    /// A network in this process, in which names are asked of the host's resolver, or of this one.
    User { dns: Option<SocketAddr> },
    /// A TAP interface of the host's.
    Tap(String),
}

/// Reads `none`, `user[,dns=ADDRESS[:PORT]]` or `tap=NAME`.
pub(crate) fn parse(text: &str) -> Result<Choice, String> {
    if let Some(name) = text.strip_prefix("tap=").filter(|name| !name.is_empty()) {
        return Ok(Choice::Tap(name.to_owned()));
    }
    match text {
        "none" => return Ok(Choice::None),
        "user" => return Ok(Choice::User { dns: None }),
        _ => {}
    }
    let Some(dns) = text.strip_prefix("user,dns=") else {
        return Err("it is none, user, or tap=NAME".to_owned());
    };
    let with_port = |address: IpAddr| SocketAddr::from((address, DNS_PORT));
    let address = dns.parse().or_else(|_| dns.parse().map(with_port));
    let dns = address.map_err(|_| format!("'{dns}' is no address, with a port or without"))?;
    Ok(Choice::User { dns: Some(dns) })
}

/// Reads `[ADDRESS:]HOST:GUEST[/udp]`.
pub(crate) fn parse_port(text: &str) -> Result<Port, String> {
    const FORM: &str = "it is the host's port, a colon and the guest's, such as 8080:80, with an address and a colon \
                        before it if it is not to be 127.0.0.1, and /udp behind it for datagrams";
    let (ports, transport) = match text.rsplit_once('/') {
        None | Some((_, "tcp")) => (text.trim_end_matches("/tcp"), Transport::Tcp),
        Some((ports, "udp")) => (ports, Transport::Udp),
        Some(_) => return Err(FORM.to_owned()),
    };
    let port = |text: &str| text.parse::<u16>().ok().filter(|port| *port != 0);
    let read = || {
        let (host, guest) = ports.rsplit_once(':')?;
        let guest = port(guest)?;
        let host = match host.rsplit_once(':') {
            None => SocketAddr::from((Ipv4Addr::LOCALHOST, port(host)?)),
            Some(("*", host)) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, port(host)?)),
            Some(_) => host.parse().ok().filter(|host: &SocketAddr| host.port() != 0)?,
        };
        Some(Port { transport, host, guest })
    };
    read().ok_or_else(|| FORM.to_owned())
}

/// What the guest is connected to, if anything.
pub(crate) fn choice(options: &cli::Run) -> Option<Choice> {
    match &options.net {
        None if options.publish.is_empty() => None,
        None => Some(Choice::User { dns: None }),
        Some(Choice::None) => None,
        Some(choice) => Some(choice.clone()),
    }
}

/// Why the options do not go together, if so.
pub(crate) fn conflict(options: &cli::Run) -> Option<&'static str> {
    let leads_nowhere = matches!(options.net, Some(Choice::None | Choice::Tap(_)));
    (leads_nowhere && !options.publish.is_empty())
        .then_some("--publish leads to the guest with --net user only")
}

/// What the guest's init is told.
pub(crate) fn in_guest(options: &cli::Run) -> Option<Network> {
    match choice(options)? {
        Choice::None => None,
        Choice::Tap(_) => Some(Network::Ask),
        Choice::User { dns } => {
            let search = resolver(dns).configuration().search.into_iter();
            // Only what can be a name is passed on: the guest takes nothing else.
            let is_word = |name: &String| name.bytes().all(|byte| byte.is_ascii_graphic());
            Some(Network::Told(Addresses {
                guest: GUEST.octets(),
                prefix: PREFIX,
                gateway: GATEWAY.octets(),
                dns: DNS.octets(),
                search: search.filter(is_word).map(String::into_bytes).collect(),
                mtu: MTU,
            }))
        }
    }
}

fn resolver(dns: Option<SocketAddr>) -> Resolver {
    dns.map_or_else(Resolver::default, Resolver::Fixed)
}

/// Makes the device, if there is to be one.
pub(crate) fn open(options: &cli::Run) -> Result<Option<Arc<dyn Device>>, Error> {
    let failed = |why: &dyn std::fmt::Display| Error::new("cannot give the guest a network", why);
    let Some(choice) = choice(options) else { return Ok(None) };
    let [seed, address] = random().map_err(|error| failed(&reason(&error)))?;
    let mac = mac(address);
    let cable: Arc<dyn Cable> = match choice {
        Choice::None => return Ok(None),
        Choice::Tap(name) => Arc::new(open_tap(&name, options.cpus.get())?),
        Choice::User { dns } => {
            allow_many_files();
            Arc::new(User::new(user_net::Config {
                mac,
                hostname: HOSTNAME.to_owned(),
                resolver: resolver(dns),
                published: Arc::new(publish(&options.publish)?),
                seed,
            }))
        }
    };
    let net = Net::new(mac, cable).map_err(|error| failed(&reason(&error)))?;
    Ok(Some(Arc::new(net)))
}

fn random() -> Result<[u64; 2], std::io::Error> {
    let mut bytes = [0; 16];
    // So few are given whole.
    getrandom(&mut bytes[..], GetRandomFlags::empty())?;
    let (first, second) = bytes.split_at(8);
    let word = |bytes: &[u8]| bytes.try_into().map(u64::from_le_bytes).unwrap_or_default();
    Ok([word(first), word(second)])
}

/// An address that nobody was given: of one station, and of whoever administers the network. See: IEEE 802-2014, 8.2.2.
fn mac(random: u64) -> Mac {
    let [first, rest @ ..] = random.to_le_bytes();
    let [b, c, d, e, f, ..] = rest;
    [first & 0xfc | 0x02, b, c, d, e, f]
}

/// Each of the guest's connections is a file of this process's.
fn allow_many_files() {
    let limit = getrlimit(Resource::Nofile);
    // With fewer of them there are fewer connections.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
}

fn publish(ports: &[Port]) -> Result<Published, Error> {
    Published::bind(ports).map_err(|error| {
        use std::io::ErrorKind::{AddrInUse, AddrNotAvailable, PermissionDenied};
        let kind = match error.port.transport {
            Transport::Tcp => "port",
            Transport::Udp => "UDP port",
        };
        let failed = Error::new(
            format!(
                "cannot publish the guest's {kind} {} at {}",
                error.port.guest, error.port.host
            ),
            reason(&error.source),
        );
        match error.source.kind() {
            AddrInUse => failed.advise(
                "End the program that has it, or give another port (ss -lp shows who that is)",
            ),
            AddrNotAvailable => failed.advise("Give an address that this machine has"),
            PermissionDenied => failed.advise("Give a port from 1024 on"),
            _ => failed,
        }
    })
}

fn open_tap(name: &str, cpus: u32) -> Result<Tap, Error> {
    let pairs = u16::try_from(cpus).unwrap_or(u16::MAX);
    Tap::open(name, pairs).map_err(|error| {
        let action = format!("cannot connect the guest to the TAP interface '{name}'");
        let made = format!(
            "Have the administrator make one for you: ip tuntap add dev {name} mode tap multi_queue user $USER"
        );
        let why = match &error {
            tap::Error::Device(source) => format!("cannot open /dev/net/tun: {}", reason(source)),
            tap::Error::Other(source) => reason(source),
            error => error.to_string(),
        };
        let failed = Error::new(action, why);
        match error {
            tap::Error::Absent | tap::Error::Permission => failed.advise(made),
            tap::Error::InUse => failed.advise("End that, or give another interface"),
            tap::Error::Device(_) => failed.advise(
                "Load the module tun, and let users open it (chmod 0666 /dev/net/tun); or use --net user",
            ),
            tap::Error::Name | tap::Error::Kind => {
                failed.advise("Give the name of a TAP interface (ip tuntap list), or use --net user")
            }
            tap::Error::Other(_) => failed,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_named() {
        assert_eq!(parse("none"), Ok(Choice::None));
        assert_eq!(parse("user"), Ok(Choice::User { dns: None }));
        assert_eq!(parse("tap=tap0"), Ok(Choice::Tap("tap0".into())));
        let dns = |text: &str| Ok(Choice::User { dns: Some(text.parse().unwrap()) });
        assert_eq!(parse("user,dns=192.0.2.1"), dns("192.0.2.1:53"));
        assert_eq!(parse("user,dns=127.0.0.1:5353"), dns("127.0.0.1:5353"));
        assert_eq!(parse("user,dns=2001:db8::1"), dns("[2001:db8::1]:53"));
        for text in ["", "tap", "tap=", "user,", "user,dns=", "user,dns=x", "bridge"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn ports_are_given_as_people_know_them() {
        let port = |transport, host: &str, guest| {
            Ok(Port { transport, host: host.parse().unwrap(), guest })
        };
        assert_eq!(parse_port("8080:80"), port(Transport::Tcp, "127.0.0.1:8080", 80));
        assert_eq!(parse_port("8080:80/tcp"), port(Transport::Tcp, "127.0.0.1:8080", 80));
        assert_eq!(parse_port("53:53/udp"), port(Transport::Udp, "127.0.0.1:53", 53));
        assert_eq!(parse_port("0.0.0.0:1:2"), port(Transport::Tcp, "0.0.0.0:1", 2));
        assert_eq!(parse_port("*:1:2"), port(Transport::Tcp, "0.0.0.0:1", 2));
        assert_eq!(parse_port("[::1]:1:2/udp"), port(Transport::Udp, "[::1]:1", 2));
        for text in ["", "80", "0:80", "80:0", "80:65536", "x:1:2", "1:2/sctp", "::1:1:2", "1:2:3"]
        {
            assert!(parse_port(text).is_err(), "{text}");
        }
    }

    #[test]
    fn an_address_is_of_one_station_and_of_no_maker() {
        for random in [0, u64::MAX, 0x0123_4567_89ab_cdef] {
            assert_eq!(mac(random)[0] & 3, 2);
        }
    }
}
