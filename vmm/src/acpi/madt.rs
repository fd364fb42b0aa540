//! The Multiple APIC Description Table: processors and interrupt routing.
//!
//! `acpi_tables` knows some of the structures, but neither the flags nor
//! x2APIC, interrupt overrides and NMI: all are written here, as they stand
//! in the specification. See: ACPI 6.5, 5.2.12.

use acpi_tables::sdt::Sdt;

use super::{OEM_ID, OEM_REVISION, OEM_TABLE_ID, Platform};

/// The standard header, the local APICs' address, the flags.
const HEADER: u32 = 36 + 8;
/// ACPI 6.5's.
const REVISION: u8 = 6;
/// The two 8259s are there. See: ACPI 6.5, table 5.20.
const PCAT_COMPAT: u32 = 1 << 0;

// Structure types. See: ACPI 6.5, table 5.21.
const LOCAL_APIC: u8 = 0;
const IO_APIC: u8 = 1;
const INTERRUPT_OVERRIDE: u8 = 2;
const LOCAL_APIC_NMI: u8 = 4;
const LOCAL_X2APIC: u8 = 9;
const LOCAL_X2APIC_NMI: u8 = 10;

/// The processor can be used.
const ENABLED: u32 = 1 << 0;
/// The highest id in a local APIC structure: 255 means "all" there.
const LOCAL_APIC_MAX: u32 = 254;
/// The interrupt is as its bus has it: ISA's are edge-triggered, active high.
const AS_BUS: u16 = 0;
/// Active high, level-triggered. See: ACPI 6.5, table 5.26.
const ACTIVE_HIGH_LEVEL: u16 = 0b01 | 0b11 << 2;
/// The timer is wired to this input of the I/O APIC, as on every PC: the
/// first takes the 8259s' output.
const TIMER_GSI: u32 = 2;
/// NMI comes in at each local APIC's LINT1.
const NMI_LINT: u8 = 1;

/// Makes the table.
pub fn madt(platform: &Platform) -> Vec<u8> {
    let mut table = Sdt::new(*b"APIC", HEADER, REVISION, OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    table.write_u32(36, platform.local_apic);
    table.write_u32(40, PCAT_COMPAT);

    let mut body = Body::default();
    for (apic_id, uid) in platform.apic_ids.iter().zip(0u32..) {
        body.cpu(uid, *apic_id);
    }
    body.io_apic(platform.io_apic.id, platform.io_apic.address);
    body.interrupt_override(0, TIMER_GSI, AS_BUS);
    let sci = platform.power.sci;
    body.interrupt_override(sci, u32::from(sci), ACTIVE_HIGH_LEVEL);
    body.structure(LOCAL_APIC_NMI, &[&[0xff], &AS_BUS.to_le_bytes(), &[NMI_LINT]]);
    if platform.apic_ids.iter().any(|id| *id > LOCAL_APIC_MAX) {
        let all = u32::MAX.to_le_bytes();
        body.structure(LOCAL_X2APIC_NMI, &[&AS_BUS.to_le_bytes(), &all, &[NMI_LINT], &[0; 3]]);
    }
    table.append_slice(&body.bytes);
    table.as_slice().to_vec()
}

/// The structures that follow the header.
#[derive(Default)]
struct Body {
    bytes: Vec<u8>,
}

impl Body {
    fn cpu(&mut self, uid: u32, apic_id: u32) {
        let enabled = ENABLED.to_le_bytes();
        match (u8::try_from(uid), u8::try_from(apic_id)) {
            (Ok(uid), Ok(id)) if apic_id <= LOCAL_APIC_MAX => {
                self.structure(LOCAL_APIC, &[&[uid, id], &enabled]);
            }
            _ => self.structure(
                LOCAL_X2APIC,
                &[&[0; 2], &apic_id.to_le_bytes(), &enabled, &uid.to_le_bytes()],
            ),
        }
    }

    fn io_apic(&mut self, id: u8, address: u32) {
        const FIRST_GSI: u32 = 0;
        self.structure(IO_APIC, &[&[id, 0], &address.to_le_bytes(), &FIRST_GSI.to_le_bytes()]);
    }

    fn interrupt_override(&mut self, irq: u8, gsi: u32, flags: u16) {
        const ISA: u8 = 0;
        self.structure(
            INTERRUPT_OVERRIDE,
            &[&[ISA, irq], &gsi.to_le_bytes(), &flags.to_le_bytes()],
        );
    }

    /// Type, length, and what the type says.
    fn structure(&mut self, kind: u8, fields: &[&[u8]]) {
        let fields = fields.concat();
        self.bytes.extend_from_slice(&[kind, fields.len() as u8 + 2]);
        self.bytes.extend_from_slice(&fields);
    }
}
