//! The guest's network: its card's addresses, and who is asked for names: [`set_up`].
//!
//! Where the host does not say them BusyBox's `udhcpc` asks the network, and calls this program with what it has heard ([`serve_lease`]).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use guest_protocol::{Addresses, Network};

use crate::command::PATH;
use crate::sys::Cards;

/// The card by which a machine reaches itself.
const LOOPBACK: &str = "lo";

/// Where programs look whom to ask for names.
pub(crate) const RESOLVER: &str = "/etc/resolv.conf";

/// How `udhcpc` asks: for a few seconds at first, in the background for as long as it has an address.
const ASK: [&str; 5] = ["-n", "-t", "4", "-T", "2"];

/// Sets it up. Gives what the person should know: a guest runs without a network, too.
pub(crate) fn set_up(network: Option<&Network>) -> Vec<String> {
    let result = match Cards::new() {
        Ok(cards) => {
            // Programs expect it. A kernel without it has no use for it.
            let _ = cards.set_up(LOOPBACK);
            network.map_or(Ok(()), |network| set_up_card(&cards, network))
        }
        Err(_) if network.is_none() => Ok(()),
        Err(error) => Err(format!("its kernel has no IPv4 (CONFIG_INET): {error}")),
    };
    result
        .err()
        .map(|why| format!("the guest's network is not set up: {why}"))
        .into_iter()
        .collect()
}

fn set_up_card(cards: &Cards, network: &Network) -> Result<(), String> {
    // Of a card without a driver the person has been told.
    let Some(card) = find_card(Path::new("/sys/class/net")) else { return Ok(()) };
    match network {
        Network::Told(addresses) => configure(cards, &card, addresses),
        Network::Ask => ask(cards, &card),
    }
}

/// The name of the first card that is a device.
pub(crate) fn find_card(folder: &Path) -> Option<String> {
    let names = fs::read_dir(folder).ok()?.flatten();
    let is_device = |path: PathBuf| path.join("device").exists();
    let cards = names.filter(|card| is_device(card.path()));
    cards.filter_map(|card| card.file_name().into_string().ok()).min()
}

fn configure(cards: &Cards, card: &str, addresses: &Addresses) -> Result<(), String> {
    let failed = |action: &str, error: io::Error| format!("cannot {action} of {card}: {error}");
    // One that takes smaller packets only still has a network.
    if addresses.mtu != 0 {
        let _ = cards.set_mtu(card, addresses.mtu);
    }
    cards
        .set_address(card, addresses.guest, addresses.prefix)
        .and_then(|()| cards.set_up(card))
        .map_err(|error| failed("set the address", error))?;
    if addresses.gateway != [0; 4] {
        match cards.set_gateway(addresses.gateway) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(failed("set the router", error));
            }
            _ => {}
        }
    }
    if addresses.dns == [0; 4] {
        return Ok(());
    }
    write_resolver(Path::new(RESOLVER), &resolver(addresses))
        .map_err(|error| format!("cannot write {RESOLVER}: {error}"))
}

/// What is in the file that says whom to ask for names.
pub(crate) fn resolver(addresses: &Addresses) -> String {
    let [a, b, c, d] = addresses.dns;
    let search = addresses.search.iter().map(|name| String::from_utf8_lossy(name));
    let words = search.fold(String::new(), |words, name| words + " " + &name);
    let line = if words.is_empty() { words } else { format!("search{words}\n") };
    format!("{line}nameserver {a}.{b}.{c}.{d}\n")
}

/// A person's own file system may have a link there, which leads nowhere yet.
fn write_resolver(path: &Path, text: &str) -> io::Result<()> {
    path.parent().map_or(Ok(()), fs::create_dir_all)?;
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => fs::write(path, text),
    }
}

/// Has `udhcpc` ask.
fn ask(cards: &Cards, card: &str) -> Result<(), String> {
    cards.set_up(card).map_err(|error| format!("cannot use {card}: {error}"))?;
    let own = std::env::current_exe().map_err(|error| format!("init cannot be found: {error}"))?;
    let mut udhcpc = Command::new("udhcpc");
    // The kernel starts init with none.
    udhcpc.env("PATH", PATH);
    udhcpc.args(["-i", card, "-s"]).arg(own).args(ASK);
    udhcpc.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    match udhcpc.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(_) => Err("nobody has answered to DHCP".to_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err("it takes udhcpc, which is not in this file system".to_owned())
        }
        Err(error) => Err(format!("cannot run udhcpc: {error}")),
    }
}

/// What `udhcpc` calls this program for, if it does: gives whether it has. What goes wrong it does not want to know.
pub(crate) fn serve_lease() -> bool {
    let variable = |name: &str| std::env::var(name).ok();
    let Some(card) = variable("interface") else { return false };
    match std::env::args().nth(1).as_deref() {
        Some("bound" | "renew") => {}
        Some("deconfig" | "leasefail" | "nak") => return true,
        _ => return false,
    }
    if let (Some(addresses), Ok(cards)) = (lease(variable), Cards::new())
        && let Err(error) = configure(&cards, &card, &addresses)
    {
        eprintln!("init: {error}");
    }
    true
}

/// What the network has told, in `udhcpc`'s variables.
pub(crate) fn lease(variable: impl Fn(&str) -> Option<String>) -> Option<Addresses> {
    let first = |name: &str| {
        let words = variable(name)?;
        let address: std::net::Ipv4Addr = words.split_whitespace().next()?.parse().ok()?;
        Some(address.octets())
    };
    let names = variable("search").or_else(|| variable("domain")).unwrap_or_default();
    Some(Addresses {
        guest: first("ip")?,
        prefix: variable("mask")?.trim().parse().ok().filter(|prefix| *prefix <= 32)?,
        gateway: first("router").unwrap_or_default(),
        dns: first("dns").unwrap_or_default(),
        search: names.split_whitespace().map(|name| name.as_bytes().to_vec()).collect(),
        mtu: variable("mtu").and_then(|text| text.trim().parse().ok()).unwrap_or_default(),
    })
}
