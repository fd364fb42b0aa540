//! What the vCPUs of one x86 machine share: the chips behind one lock, and each vCPU's
//! mailbox in a published map. [`X86`] implements [`virt::Arch`] with it.
//!
//! The chips are [`LockedChips`]: what they set off is carried out here, with no lock held.

use alloc::boxed::Box;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use lock_api::Mutex;
use virt::coalesced::Coalesced;
use virt::host::{Expire, Host, Parker};
use virt::ioeventfd::IoEventFds;
use virt::irqfd::Ended;
use virt::routing::{Pin, Reached, Route, Routes, Source, reached_by_both};
use virt::statistics::Statistics;
use virt::{Arch, Errno, Memory};

use crate::cpuid::Hardware;
use crate::engine::Engine;
use crate::irqchip::chips::{Chips, Effects};
use crate::irqchip::destination::{self, Address};
use crate::irqchip::i8254::Pit;
use crate::irqchip::i8259::Pic;
use crate::irqchip::{Delivery, Message, ioapic};
use crate::locked_chips::LockedChips;
use crate::msr_policy::MsrPolicy;
use crate::pvclock::MachineClock;
use crate::quirks::Quirks;
use crate::setup::Setup;
use crate::statistics::{VcpuStatistics, VmStatistic, VmStatistics};
use crate::tsc::TscOffset;
use crate::vcpu::accesses::Accesses;
use crate::vcpu::inbox::{Inbox, request};

/// The chips, as [`Pin::chip`] numbers them. The values are KVM's.
pub mod chip {
    /// The 8259 pair: 16 inputs.
    pub const PIC: u32 = 0;
    /// The second of them by itself, in KVM's interface only.
    pub const SECOND_PIC: u32 = 1;
    /// The I/O APIC: 24 inputs.
    pub const IOAPIC: u32 = 2;
}

/// Bits of a message's address that are no part of a destination with 32 bits, and 0.
const MSI_RESERVED: u64 = 0xff << 32;

/// The most vCPUs that a machine may have.
pub const MAX_CPUS: u32 = 1024;

/// Whether a port is one of the chips', wherever they are.
#[must_use]
pub const fn has_port(port: u16) -> bool {
    Pic::has_port(port) || Pit::has_port(port)
}

/// Where `gpa` lies in the I/O APIC's page, if it does.
#[must_use]
pub const fn ioapic_offset(gpa: u64) -> Option<u64> {
    let offset = gpa.wrapping_sub(ioapic::DEFAULT_ADDRESS);
    if offset < ioapic::SIZE { Some(offset) } else { None }
}

/// What others see of a vCPU.
pub struct Published<H: Host> {
    /// Its mailbox.
    pub inbox: Inbox,
    /// What its run loop does with guest memory.
    pub accesses: Accesses,
    /// What is counted of it.
    pub statistics: Arc<VcpuStatistics>,
    address: AtomicU64,
    parker: H::Parker,
    made: AtomicBool,
}

impl<H: Host> Published<H> {
    /// Has `make` make the vCPU, which can be made once.
    ///
    /// # Errors
    /// `EEXIST` if it was made, and what `make` fails with: then it may be tried again.
    pub fn make_once<T>(&self, make: impl FnOnce() -> Result<T, Errno>) -> Result<T, Errno> {
        if self.made.swap(true, Ordering::AcqRel) {
            return Err(Errno::EEXIST);
        }
        let result = make();
        if result.is_err() {
            self.made.store(false, Ordering::Release);
        }
        result
    }

    /// Tells what its local APIC answers to.
    pub fn publish(&self, address: Address) {
        self.address.store(address.to_bits(), Ordering::Release);
    }

    /// What its local APIC answers to.
    pub fn address(&self) -> Address {
        Address::from_bits(self.address.load(Ordering::Acquire))
    }

    /// Posts bits of [`request`] and ends its wait for mail; if its engine runs it has to be told, too. Any context: also a signal's
    /// handler, where the host's [`Parker`] can be used in one.
    pub fn post(&self, bits: u32) {
        self.inbox.post(bits);
        self.parker.unpark();
    }

    /// Waits for mail. On the vCPU's own thread.
    pub fn wait(&self) {
        self.parker.park(&mut || self.inbox.is_full());
    }
}

/// What the vCPUs of one machine share.
pub struct Machine<E, H: Host> {
    /// The host's services.
    pub host: H,
    /// What runs guest code.
    pub engine: E,
    /// The memory slots.
    pub memory: Arc<Memory<H::RawMutex>>,
    /// Which of the guest's writes signal an event.
    pub ioeventfds: IoEventFds<H::RawMutex, H::Event>,
    /// Which of them may wait.
    pub coalesced: Coalesced<H::RawMutex>,
    /// The host's processor, for the CPUID policy.
    pub hardware: fn(u32, u32) -> crate::cpuid::Leaf,
    /// What was chosen before the first vCPU was made.
    pub setup: Setup,
    /// Which model-specific registers the guest may use.
    pub msr_policy: MsrPolicy<H::RawMutex>,
    /// Where it does otherwise than a processor.
    pub quirks: Quirks,
    /// KVM's clock.
    pub clock: MachineClock,
    /// The guest's TSC is the host's plus this, unless a vCPU's own was changed.
    pub tsc: TscOffset,
    /// What is counted of the machine as a whole.
    pub statistics: Arc<VmStatistics>,
    vcpus: Box<[Published<H>]>,
    chips: LockedChips<H>,
    /// What is told of interrupts that have ended, if it was asked for.
    ended: Mutex<H::RawMutex, Option<Weak<dyn Ended>>>,
}

impl<E: Engine, H: Host> Machine<E, H> {
    fn new(
        host: H,
        engine: E,
        memory: Arc<Memory<H::RawMutex>>,
        hardware: fn(u32, u32) -> crate::cpuid::Leaf,
        cpus: u32,
    ) -> Result<Arc<Self>, Errno> {
        if cpus == 0 || cpus > MAX_CPUS {
            return Err(Errno::EINVAL);
        }
        let mut vcpus = Vec::new();
        vcpus.try_reserve_exact(cpus as usize).map_err(|_| Errno::ENOMEM)?;
        for _ in 0..cpus {
            let parker = host.parker()?;
            let address = AtomicU64::new(Address::default().to_bits());
            let (inbox, accesses) = (Inbox::default(), Accesses::default());
            let made = AtomicBool::new(false);
            let statistics = Arc::default();
            vcpus.push(Published { inbox, accesses, statistics, address, parker, made });
        }
        let machine = Arc::new(Self {
            setup: Setup::new(cpus),
            msr_policy: MsrPolicy::default(),
            quirks: Quirks::new(),
            clock: MachineClock::starting_at(host.now()),
            tsc: TscOffset::starting_at(host.tsc()),
            statistics: Arc::default(),
            chips: LockedChips::default(),
            ended: Mutex::new(None),
            host,
            engine,
            memory,
            ioeventfds: IoEventFds::default(),
            coalesced: Coalesced::default(),
            hardware,
            vcpus: vcpus.into_boxed_slice(),
        });
        let timer = machine.host.timer(Arc::new(PitExpiry(Arc::downgrade(&machine))))?;
        machine.chips.set_timer(timer);
        Ok(machine)
    }

    /// What others see of the vCPUs that were made, or that others have a higher number than.
    fn made(&self) -> &[Published<H>] {
        let made = self.setup.made() as usize;
        self.vcpus.get(..made).unwrap_or(&self.vcpus)
    }

    /// What others see of vCPU `id`.
    pub fn vcpu(&self, id: u32) -> Option<&Published<H>> {
        self.vcpus.get(id as usize)
    }

    /// How many vCPUs there may be.
    pub fn cpus(&self) -> u32 {
        self.vcpus.len() as u32
    }

    /// Posts bits of [`request`] to vCPU `id` and makes it look.
    pub fn post(&self, id: u32, bits: u32) {
        if let Some(vcpu) = self.vcpu(id) {
            vcpu.inbox.post(bits);
            self.wake(id, vcpu);
        }
    }

    /// Posts them to all vCPUs.
    pub fn post_all(&self, bits: u32) {
        for id in 0..self.setup.made() {
            self.post(id, bits);
        }
    }

    fn wake(&self, id: u32, vcpu: &Published<H>) {
        self.engine.kick(id);
        vcpu.parker.unpark();
    }

    /// Delivers a message to the local APICs that it is for. `sender` is the APIC ID of an
    /// interprocessor interrupt's. Gives how many that are. Atomic context.
    #[inline(never)]
    pub fn deliver(&self, message: &Message, sender: Option<u32>) -> Reached {
        let targets = || {
            let all = self.made().iter().enumerate();
            all.filter(|(_, vcpu)| destination::matches(message, sender, vcpu.address()))
        };
        if message.delivery == Delivery::LowestPriority {
            let chosen = destination::arbitrate(message.vector, targets().count());
            let (id, vcpu) = chosen.and_then(|index| targets().nth(index))?;
            return Some(self.hand_over(id as u32, vcpu, message).into());
        }
        let taken = targets().map(|(id, vcpu)| self.hand_over(id as u32, vcpu, message).into());
        taken.map(Some).fold(None, reached_by_both)
    }

    /// Gives whether the vCPU takes it.
    fn hand_over(&self, id: u32, vcpu: &Published<H>, message: &Message) -> bool {
        match message.delivery {
            Delivery::Fixed | Delivery::LowestPriority => {
                vcpu.inbox.post_interrupt(message.vector, message.level);
            }
            Delivery::Nmi => vcpu.inbox.post(request::NMI),
            Delivery::Init if message.assert => vcpu.inbox.post(request::INIT),
            // The deassertion of INIT synchronised arbitration IDs long ago.
            Delivery::Init => return false,
            Delivery::StartUp => vcpu.inbox.post_startup(message.vector),
            Delivery::ExtInt => vcpu.inbox.post(request::EXTINT),
            // There is no system management mode.
            Delivery::Smi => return false,
        }
        self.wake(id, vcpu);
        true
    }

    /// Works on the chips, and carries out what that set off. Atomic context.
    pub fn with_chips<T>(&self, work: impl FnOnce(&mut Chips, u64) -> (T, Effects)) -> T {
        self.move_chips(work).0
    }

    /// The same; gives as well what the messages have reached that it set off.
    fn move_chips<T>(&self, work: impl FnOnce(&mut Chips, u64) -> (T, Effects)) -> (T, Reached) {
        let (now, mut reached) = (self.host.now(), None);
        let carry_out = |effects: &Effects| reached = self.carry_out(effects);
        let result = self.chips.change(|chips| work(chips, now), carry_out);
        (result, reached)
    }

    /// Looks at the chips. Atomic context.
    pub fn look_at_chips<T>(&self, look: impl FnOnce(&Chips) -> T) -> T {
        self.chips.look(look)
    }

    /// What a message is that was sent with 8 bits of destination.
    fn with_8_bits(&self, message: Message) -> Message {
        if self.setup.has_narrow_broadcast() { message.for_xapics() } else { message }
    }

    #[inline(never)]
    fn carry_out(&self, effects: &Effects) -> Reached {
        let messages = effects.messages.as_slice().iter();
        let reached = messages
            .map(|message| self.deliver(&self.with_8_bits(*message), None))
            .fold(None, reached_by_both);
        if effects.intr == Some(true) {
            // Wired to every LINT0; the local APICs decide whether it is let through.
            self.post_all(request::EXTINT);
        }
        if effects.ended_pins != 0 || effects.ended_lines != 0 {
            self.tell_ended(effects.ended_lines.into(), effects.ended_pins);
        }
        reached
    }

    /// Tells of interrupts of the 8259s' lines and of the I/O APIC's pins, a bit each, that the guest has ended.
    #[inline(never)]
    fn tell_ended(&self, lines: u32, pins: u32) {
        let target = self.ended.lock().as_ref().and_then(Weak::upgrade);
        let Some(target) = target else { return };
        for (chip, inputs) in [(chip::PIC, lines), (chip::IOAPIC, pins)] {
            for number in (0..u32::BITS).filter(|number| inputs >> number & 1 != 0) {
                target.ended(Pin { chip, number });
            }
        }
    }

    /// Whether the shared chips are to be told that an edge-triggered interrupt of this vector has ended.
    #[inline]
    pub fn is_tick(&self, vector: u8) -> bool {
        self.chips.tick_vector() == Some(vector)
    }

    /// Whether the 8259s ask for attention.
    pub fn pic_output(&self) -> bool {
        self.chips.pic_output()
    }
}

/// Calls the 8254 when its deadline has passed.
struct PitExpiry<E, H: Host>(Weak<Machine<E, H>>);

impl<E: Engine, H: Host> Expire for PitExpiry<E, H> {
    fn expired(&self) {
        if let Some(machine) = self.0.upgrade() {
            machine.with_chips(|chips, now| ((), chips.advance(now)));
        }
    }
}

/// The x86 part of one virtual machine.
pub struct X86<E, H: Host>(Arc<Machine<E, H>>);

impl<E: Engine, H: Host> X86<E, H> {
    /// Makes a machine of at most `cpus` vCPUs, without chips. `hardware` is the host's processor's CPUID.
    ///
    /// # Errors
    /// `EINVAL` for a number of vCPUs out of range, and what the host lacks.
    pub fn new(
        host: H,
        engine: E,
        memory: Arc<Memory<H::RawMutex>>,
        hardware: fn(u32, u32) -> crate::cpuid::Leaf,
        cpus: u32,
    ) -> Result<Self, Errno> {
        Machine::new(host, engine, memory, hardware, cpus).map(Self)
    }

    /// Has the local APICs, the 8259s and the I/O APIC be here.
    ///
    /// # Errors
    /// As [`Setup::create_irqchip`].
    pub fn create_irqchip(&self) -> Result<(), Errno> {
        self.0.setup.create_irqchip()
    }

    /// Has the 8254 be here, with port 61h or without. Ticks that come while the last has not ended are made up for.
    ///
    /// # Errors
    /// As [`Setup::create_pit`].
    pub fn create_pit(&self, speaker: bool) -> Result<(), Errno> {
        self.0.setup.create_pit(speaker)?;
        self.0.with_chips(|chips, _| {
            chips.make_up_for_ticks(true);
            ((), chips.set_pit(true))
        });
        Ok(())
    }

    /// What the vCPUs share.
    pub fn machine(&self) -> &Arc<Machine<E, H>> {
        &self.0
    }
}

impl<E: Engine, H: Host> Arch for X86<E, H> {
    type Host = H;

    const ADDRESS_BITS: u32 = 52;

    fn default_routes() -> Result<Routes, Errno> {
        let mut routes = Routes::default();
        let pin = |chip, number| Route::Pin(Pin { chip, number });
        for gsi in 0..24 {
            if gsi < 16 {
                routes.add(gsi, pin(chip::PIC, gsi))?;
            }
            // The 8254 is wired to input 2; nothing else uses GSI 2, the cascade.
            match gsi {
                0 => routes.add(gsi, pin(chip::IOAPIC, 2))?,
                2 => {}
                _ => routes.add(gsi, pin(chip::IOAPIC, gsi))?,
            }
        }
        Ok(routes)
    }

    fn host(&self) -> &H {
        &self.0.host
    }

    fn ioeventfds(&self) -> &IoEventFds<H::RawMutex, H::Event> {
        &self.0.ioeventfds
    }

    fn coalesced(&self) -> &Coalesced<H::RawMutex> {
        &self.0.coalesced
    }

    fn statistics(&self) -> Arc<dyn Statistics> {
        Arc::clone(&self.0.statistics) as _
    }

    fn has_vcpus(&self) -> bool {
        self.machine().setup.made() != 0
    }

    fn has_irqchip(&self) -> bool {
        self.0.setup.has_local_apics()
    }

    fn irqchip_pin(&self, irqchip: u32, pin: u32) -> Option<Pin> {
        let (chip, first, pins) = match irqchip {
            chip::PIC => (chip::PIC, 0, 8),
            chip::SECOND_PIC => (chip::PIC, 8, 8),
            chip::IOAPIC => (chip::IOAPIC, 0, ioapic::PINS as u32),
            _ => return None,
        };
        let there = self.0.setup.has_shared_chips() && pin < pins;
        there.then(|| Pin { chip, number: first + pin })
    }

    #[inline(never)]
    fn set_pin(&self, pin: Pin, source: Source, level: bool) -> Reached {
        if !self.0.setup.has_shared_chips() {
            return None;
        }
        let (known, sent) = self.0.move_chips(|chips, _| match pin.chip {
            chip::PIC => match u8::try_from(pin.number) {
                Ok(line) => {
                    let reached = chips.pic_reaches(line, level);
                    (Some(reached), chips.set_pic_line(line, source, level))
                }
                Err(_) => (Some(None), Effects::default()),
            },
            chip::IOAPIC => {
                let number = pin.number as usize;
                let reached = chips.ioapic_reaches(number, level);
                (reached, chips.set_ioapic_pin(number, source, level))
            }
            _ => (Some(None), Effects::default()),
        });
        known.unwrap_or(sent)
    }

    fn has_pins(&self) -> bool {
        self.0.setup.has_shared_chips()
    }

    fn tell_ended(&self, target: Weak<dyn Ended>) {
        *self.0.ended.lock() = Some(target);
    }

    fn is_msi(&self, address: u64) -> bool {
        !self.0.setup.has_wide_ids() || address & MSI_RESERVED == 0
    }

    fn send_msi(&self, address: u64, data: u32) -> Reached {
        if !self.is_msi(address) {
            return None;
        }
        let upper = if self.0.setup.has_wide_ids() { address & !u64::from(u32::MAX) } else { 0 };
        let message = Message::from_msi(upper | address & u64::from(u32::MAX), data)?;
        let message = if upper == 0 { self.0.with_8_bits(message) } else { message };
        self.0.deliver(&message, None)
    }

    fn memory_changed(&self, start: u64, size: u64) {
        self.0.statistics.count(VmStatistic::RemoteTlbFlush);
        self.0.engine.invalidate(start, size);
        for vcpu in self.0.made() {
            vcpu.accesses.wait(&self.0.host);
        }
    }
}

/// A machine's CPUID policy looks at the host through this.
impl<E: Engine, H: Host> Hardware for Machine<E, H> {
    fn cpuid(&self, function: u32, index: u32) -> crate::cpuid::Leaf {
        (self.hardware)(function, index)
    }
}
