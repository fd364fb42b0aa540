//! [`Routes`]: what the kernel is told of the I/O APIC's redirection table.
//!
//! A local APIC tells of an interrupt's end (`KVM_EXIT_IOAPIC_EOI`) if a GSI below the number of pins has a route that
//! is a level-triggered message with its vector. So pin n's entry is GSI n's route while it is level-triggered,
//! masked or not: what is in service when it is masked ends, too.
//!
//! What an irqfd on pin n sends is the route of [`irqfds_gsi`], while the entry is not masked: an edge that comes while it
//! is, is lost.
//!
//! See: Linux, arch/x86/kvm/irq_comm.c, `kvm_scan_ioapic_routes`.

use arch_x86::irqchip::ioapic::{PINS, Redirection};
use kvm_bindings::{
    KVM_IRQ_ROUTING_MSI, KvmIrqRouting, kvm_irq_routing_entry,
    kvm_irq_routing_entry__bindgen_ty_1 as Target, kvm_irq_routing_msi,
};
use kvm_ioctls::VmFd;
use parking_lot::Mutex;

use crate::Error;

/// A GSI that never has a route.
pub(super) const NOWHERE: u32 = 2 * PINS as u32;

/// By which GSI the kernel knows an irqfd on a pin.
pub(super) const fn irqfds_gsi(pin: usize) -> u32 {
    (PINS + pin) as u32
}

/// A message: address and data.
type Msi = (u64, u32);

/// A route for each GSI that can have one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Table([Option<Msi>; NOWHERE as usize]);

impl Default for Table {
    fn default() -> Self {
        Self([None; NOWHERE as usize])
    }
}

impl Table {
    /// `irqfds`: the pins that irqfds are on, a bit each.
    fn new(redirections: &[Redirection; PINS], irqfds: u32) -> Self {
        let mut table = Self::default();
        let (ends, sent) = table.0.split_at_mut(PINS);
        for (pin, entry) in redirections.iter().enumerate() {
            let Some(message) = entry.message() else { continue };
            ends[pin] = message.level.then(|| message.to_msi());
            let is_sent = irqfds >> pin & 1 != 0 && !entry.is_masked();
            sent[pin] = is_sent.then(|| message.to_msi());
        }
        table
    }

    /// As KVM takes it.
    fn entries(&self) -> Vec<kvm_irq_routing_entry> {
        let routes = (0..).zip(self.0).filter_map(|(gsi, msi)| msi.map(|msi| (gsi, msi)));
        let entry = |(gsi, (address, data)): (u32, Msi)| {
            let (address_lo, address_hi) = (address as u32, (address >> 32) as u32);
            let msi = kvm_irq_routing_msi { address_lo, address_hi, data, ..Default::default() };
            let type_ = KVM_IRQ_ROUTING_MSI;
            kvm_irq_routing_entry { gsi, type_, u: Target { msi }, ..Default::default() }
        };
        routes.map(entry).collect()
    }
}

/// The table that the kernel has. To replace it takes the kernel a while, and most writes to the I/O APIC change
/// nothing of it.
#[derive(Debug, Default)]
pub(super) struct Routes(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    table: Table,
    /// The pins that irqfds were on at some time, a bit each.
    irqfds: u32,
}

impl Routes {
    /// There may be an irqfd on a pin: [`update`](Self::update) tells the kernel what it sends.
    pub fn follow_masks_of(&self, pin: usize) {
        self.0.lock().irqfds |= 1 << pin;
    }

    /// Has the kernel know the redirection table that `read` gives.
    ///
    /// # Errors
    /// When the kernel is short of memory.
    pub fn update(
        &self,
        fd: &VmFd,
        read: impl FnOnce() -> [Redirection; PINS],
    ) -> Result<(), Error> {
        // Read under the lock: who reads last, tells last.
        let mut known = self.0.lock();
        let table = Table::new(&read(), known.irqfds);
        if known.table == table {
            return Ok(());
        }
        let refused = |error| Error::Kvm { action: "route the I/O APIC's interrupts", error };
        let routing = KvmIrqRouting::from_entries(&table.entries())
            .map_err(|error| refused(std::io::Error::other(format!("{error:?}"))))?;
        fd.set_gsi_routing(&routing).map_err(|error| refused(error.into()))?;
        known.table = table;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// There are some on pins 4 and 9.
    const IRQFDS: u32 = 1 << 4 | 1 << 9;

    fn table(change: impl FnOnce(&mut [Redirection; PINS])) -> Table {
        let mut redirections = [Redirection::RESET; PINS];
        change(&mut redirections);
        Table::new(&redirections, IRQFDS)
    }

    #[test]
    fn a_level_is_routed_masked_or_not_and_an_edge_is_not() {
        let level = Redirection::LEVEL | 5 << 56;
        let table = table(|entries| {
            entries[9] = Redirection(level | 0x61);
            entries[10] = Redirection(level | Redirection::MASKED | 0x62);
            entries[11] = Redirection(0x63);
        });
        assert_eq!(
            table.0[9..12],
            [Some((0xfee0_5000, 0xc061)), Some((0xfee0_5000, 0xc062)), None]
        );
        let entries = table.entries();
        let kinds: Vec<_> = entries.iter().map(|entry| (entry.gsi, entry.type_)).collect();
        assert_eq!(kinds, [9, 10, irqfds_gsi(9)].map(|gsi| (gsi, KVM_IRQ_ROUTING_MSI)));
    }

    #[test]
    fn what_no_eoi_ends_is_not_routed() {
        let nmi = Redirection(Redirection::LEVEL | 4 << 8);
        assert_eq!(table(|entries| entries[8] = nmi), Table::default());
    }

    #[test]
    fn an_irqfd_sends_what_its_pin_does_while_that_is_not_masked() {
        let edge = Redirection(5 << 56 | 0x61);
        let table_of = |entry: Redirection| table(|entries| entries[4..6].fill(entry));
        let expected = [Some((0xfee0_5000, 0x4061)), None];
        let irqfds = irqfds_gsi(4) as usize..=irqfds_gsi(5) as usize;
        assert_eq!(table_of(edge).0[irqfds], expected);
        assert_eq!(table_of(Redirection(edge.0 | Redirection::MASKED)), Table::default());
    }
}
