//! [`Resolver`]: whom names are asked of: the resolvers that the host uses itself, or one that was said.

use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use crate::address::DNS_PORT;

/// The most that is read of the host's configuration.
const MOST_BYTES: u64 = 64 << 10;

/// As many as the C library asks, and as many domains as it looks in.
const MOST_SERVERS: usize = 3;
const MOST_DOMAINS: usize = 6;

/// Whom names are asked of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resolver {
    /// Those in the file, which is read each time: the host may move to another network.
    File(PathBuf),
    /// This one.
    Fixed(SocketAddr),
}

impl Default for Resolver {
    fn default() -> Self {
        Self::File("/etc/resolv.conf".into())
    }
}

/// What such a file says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Configuration {
    /// The resolvers, the first of which is asked first.
    pub servers: Vec<IpAddr>,
    /// Domains in which names are looked for.
    pub search: Vec<String>,
}

/// Reads the text of a configuration. What is not understood is passed over. See: resolv.conf(5).
#[must_use]
pub fn parse(text: &str) -> Configuration {
    let mut found = Configuration::default();
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        match words.next() {
            Some("nameserver") => {
                // An address of one link only (`fe80::1%eth0`) is none that can be used here.
                let address = words.next().and_then(|word| word.parse::<IpAddr>().ok());
                let address = address.filter(|_| found.servers.len() < MOST_SERVERS);
                found.servers.extend(address);
            }
            // The last one counts.
            Some("search" | "domain") => {
                found.search = words.take(MOST_DOMAINS).map(str::to_owned).collect();
            }
            _ => {}
        }
    }
    found
}

impl Resolver {
    /// What is known of it now. A host without such a file asks its own loopback. See: resolv.conf(5).
    #[must_use]
    pub fn configuration(&self) -> Configuration {
        let Self::File(path) = self else { return Configuration::default() };
        let mut bytes = Vec::new();
        let file = std::fs::File::open(path);
        let _ = file.and_then(|file| file.take(MOST_BYTES).read_to_end(&mut bytes));
        parse(&String::from_utf8_lossy(&bytes))
    }

    /// The one to ask now.
    #[must_use]
    pub fn server(&self) -> SocketAddr {
        match self {
            Self::Fixed(server) => *server,
            Self::File(_) => {
                let server = self.configuration().servers.first().copied();
                SocketAddr::new(server.unwrap_or(Ipv4Addr::LOCALHOST.into()), DNS_PORT)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn servers_and_domains_are_found() {
        let text = "# a comment\nnameserver 192.0.2.1\n nameserver\t2001:db8::1 \nnameserver fe80::1%eth0\n\
                    nameserver nonsense\nnameserver 192.0.2.2\nnameserver 192.0.2.3\nsearch a.example\n\
                    search b.example c.example\noptions edns0\n";
        let found = parse(text);
        let servers: [IpAddr; 3] =
            ["192.0.2.1", "2001:db8::1", "192.0.2.2"].map(|text| text.parse().unwrap());
        assert_eq!(found.servers, servers);
        assert_eq!(found.search, ["b.example", "c.example"]);
    }

    #[test]
    fn the_file_is_read_each_time_and_none_is_the_hosts_loopback() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("resolv.conf");
        let resolver = Resolver::File(path.clone());
        assert_eq!(resolver.server(), "127.0.0.1:53".parse().unwrap());
        std::fs::write(&path, "nameserver 192.0.2.7\n").unwrap();
        assert_eq!(resolver.server(), "192.0.2.7:53".parse().unwrap());
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "(nameserver|search|[ \\t\\n.0-9a-f:%#]|\\PC){0,60}") {
            let found = parse(&text);
            prop_assert!(found.servers.len() <= MOST_SERVERS && found.search.len() <= MOST_DOMAINS);
        }
    }
}
