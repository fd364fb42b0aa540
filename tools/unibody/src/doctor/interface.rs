//! `unibody doctor --kvm`: which processor, capabilities and ioctls of KVM's programs get.

use std::io::Write;

use hv::interface::{CAPABILITIES, Descriptor, Model, OFFERED, best_model};
use serde::Serialize;

use crate::error::Error;

/// Of the structure.
const FORMAT: u32 = 1;

#[derive(Serialize)]
struct Interface {
    format: u32,
    version: &'static str,
    processor: Processor,
    capabilities: Vec<Capability>,
    ioctls: Vec<Ioctl>,
}

#[derive(Serialize)]
struct Processor {
    model: &'static str,
    physical_bits: u32,
}

#[derive(Serialize)]
struct Capability {
    name: String,
    number: u32,
    value: u32,
}

#[derive(Serialize)]
struct Ioctl {
    name: String,
    number: u32,
    of: &'static str,
}

impl Interface {
    fn new() -> Self {
        let capabilities = CAPABILITIES.iter().map(|known| Capability {
            name: format!("KVM_CAP_{}", known.name),
            number: known.number,
            value: known.value,
        });
        let ioctls = OFFERED.iter().map(|offered| Ioctl {
            name: format!("KVM_{}", offered.name),
            number: offered.number,
            of: match offered.of {
                Descriptor::Device => "device",
                Descriptor::Vm => "vm",
                Descriptor::Vcpu => "vcpu",
            },
        });
        Self {
            format: FORMAT,
            version: env!("CARGO_PKG_VERSION"),
            processor: Processor {
                model: best_model().name(),
                physical_bits: Model::PHYSICAL_BITS,
            },
            capabilities: capabilities.collect(),
            ioctls: ioctls.collect(),
        }
    }

    fn page(&self) -> String {
        let mut page = format!("unibody {}: what programs find at /dev/kvm\n", self.version);
        let Processor { model, physical_bits } = self.processor;
        page.push_str(&format!(
            "\nProcessor\n  {model:<40}{physical_bits}-bit physical addresses\n"
        ));
        page.push_str("\nCapabilities\n");
        for one in self.capabilities.iter().filter(|one| one.value != 0) {
            page.push_str(&format!("  {:<40}{}\n", one.name, one.value));
        }
        page.push_str("\nNot there\n");
        for one in self.capabilities.iter().filter(|one| one.value == 0) {
            page.push_str(&format!("  {}\n", one.name));
        }
        for (of, title) in
            [("device", "Ioctls of /dev/kvm"), ("vm", "of a VM"), ("vcpu", "of a vCPU")]
        {
            page.push_str(&format!("\n{title}\n"));
            for one in self.ioctls.iter().filter(|one| one.of == of) {
                page.push_str(&format!("  {:<40}{:#010x}\n", one.name, one.number));
            }
        }
        page
    }
}

/// Prints it.
pub(super) fn tell(json: bool) -> Result<(), Error> {
    let interface = Interface::new();
    let text = if json {
        let json = serde_json::to_string_pretty(&interface);
        json.map_err(|error| Error::new("cannot make JSON of the interface", error))? + "\n"
    } else {
        interface.page()
    };
    // Whoever closes stdout does not want to know.
    let _ = std::io::stdout().write_all(text.as_bytes());
    Ok(())
}
