//! Tests of [`super::lapic`] and [`super::lapic_registers`].

use super::destination::{Mode, Model};
use super::lapic::{Config, Effect, GeneralProtection, LocalApic, base};
use super::lapic_timer::Deadline;
use super::lvt::Source;
use super::{BROADCAST, Delivery, Message, Shorthand};

use selftest::{Outcome, cases, check, check_eq};

// Offsets of registers; / 16 + 0x800 is the MSR.
const ID: u64 = 0x20;
const VERSION: u64 = 0x30;
const TPR: u64 = 0x80;
const PPR: u64 = 0xa0;
const EOI: u64 = 0xb0;
const LDR: u64 = 0xd0;
const DFR: u64 = 0xe0;
const SVR: u64 = 0xf0;
const ISR: u64 = 0x100;
const TMR: u64 = 0x180;
const IRR: u64 = 0x200;
const ESR: u64 = 0x280;
const ICR: u64 = 0x300;
const ICR_HIGH: u64 = 0x310;
const LVT_TIMER: u64 = 0x320;
const LVT_PERFORMANCE: u64 = 0x340;
const LVT_LINT0: u64 = 0x350;
const LVT_LINT1: u64 = 0x360;
const LVT_ERROR: u64 = 0x370;
const INITIAL_COUNT: u64 = 0x380;
const CURRENT_COUNT: u64 = 0x390;
const DIVIDE: u64 = 0x3e0;
const SELF_IPI: u64 = 0x3f0;

const MASKED: u32 = 1 << 16;
const ENABLED: u32 = 0x1ff;
const SUPPRESS_EOI: u32 = 1 << 12;
const X2APIC: u64 = base::DEFAULT | base::EN | base::EXTD;

fn config(id: u32) -> Config {
    Config {
        id,
        bootstrap: id == 0,
        absent: false,
        x2apic: true,
        tsc_deadline: true,
        physical_bits: 40,
    }
}

/// As after power-on.
fn raw(id: u32) -> LocalApic {
    LocalApic::new(config(id))
}

/// Enabled by software.
fn xapic(id: u32) -> LocalApic {
    let mut lapic = raw(id);
    let _ = write(&mut lapic, SVR, ENABLED);
    lapic
}

fn x2apic(id: u32) -> LocalApic {
    let mut lapic = xapic(id);
    let _ = lapic.set_base(X2APIC);
    lapic
}

fn read(lapic: &mut LocalApic, offset: u64) -> u32 {
    let mut data = [0; 4];
    lapic.read_page(offset, &mut data, 0);
    u32::from_le_bytes(data)
}

fn write(lapic: &mut LocalApic, offset: u64, value: u32) -> Effect {
    lapic.write_page(offset, &value.to_le_bytes(), 0)
}

const fn msr(offset: u64) -> u32 {
    0x800 + (offset / 16) as u32
}

/// The processor takes `vector`.
fn takes(lapic: &mut LocalApic, vector: u8) -> Outcome {
    check_eq!(lapic.pending(), Some(vector));
    lapic.acknowledge(vector);
    Ok(())
}

/// Whether `source` lets an NMI through.
fn nmi(lapic: &mut LocalApic, source: Source) -> bool {
    lapic.local_interrupt(source) == Some(Delivery::Nmi)
}

cases! {
    fn registers_after_reset() {
        let mut lapic = raw(3);
        for (offset, expected) in [
            (ID, 3 << 24), (VERSION, 0x0105_0015), (TPR, 0), (PPR, 0), (LDR, 0),
            (DFR, 0xffff_ffff), (SVR, 0xff), (ESR, 0), (ICR, 0), (ICR_HIGH, 0),
            (LVT_TIMER, MASKED), (LVT_LINT0, MASKED), (LVT_LINT1, MASKED), (LVT_ERROR, MASKED),
            (INITIAL_COUNT, 0), (CURRENT_COUNT, 0), (DIVIDE, 0),
        ] {
            check_eq!(read(&mut lapic, offset), expected, "register {offset:#x}");
        }
        check_eq!(lapic.base(), 0xfee0_0800);
        check_eq!(raw(0).base(), 0xfee0_0900);
        check_eq!(lapic.page(), Some(0xfee0_0000));
        check_eq!(lapic.deadline(), Deadline::None);
        check!(!lapic.enabled());
    }

    fn the_highest_vector_comes_first() {
        let mut lapic = xapic(0);
        check_eq!(lapic.pending(), None);
        for vector in [0x31, 0x9a, 0x52] {
            check!(lapic.accept(vector, false));
        }
        takes(&mut lapic, 0x9a)?;
        check_eq!(read(&mut lapic, PPR), 0x90);
        check_eq!(lapic.pending(), None);
        // The same class does not nest, a higher one does.
        lapic.accept(0x9f, false);
        check_eq!(lapic.pending(), None);
        lapic.accept(0xa0, false);
        takes(&mut lapic, 0xa0)?;
        check_eq!(lapic.end_of_interrupt(), Effect::EndOfEdge(0xa0));
        check_eq!(lapic.pending(), None);
        check_eq!(lapic.end_of_interrupt(), Effect::EndOfEdge(0x9a));
        for vector in [0x9f, 0x52, 0x31] {
            takes(&mut lapic, vector)?;
            check_eq!(write(&mut lapic, EOI, 0), Effect::EndOfEdge(vector));
        }
        check_eq!(lapic.pending(), None);
        check_eq!(lapic.end_of_interrupt(), Effect::None);
    }

    fn a_vector_is_requested_while_in_service() {
        let mut lapic = xapic(0);
        lapic.accept(0x41, false);
        takes(&mut lapic, 0x41)?;
        lapic.accept(0x41, false);
        lapic.accept(0x41, false);
        check_eq!(read(&mut lapic, ISR + 0x20), 2);
        check_eq!(read(&mut lapic, IRR + 0x20), 2);
        check_eq!(lapic.pending(), None);
        let _ = lapic.end_of_interrupt();
        takes(&mut lapic, 0x41)?;
        let _ = lapic.end_of_interrupt();
        check_eq!(lapic.pending(), None);
    }

    fn task_priority_holds_back() {
        let mut lapic = xapic(0);
        lapic.accept(0x55, false);
        let _ = write(&mut lapic, TPR, 0x5f);
        check_eq!(lapic.pending(), None);
        check_eq!(read(&mut lapic, PPR), 0x5f);
        check_eq!(lapic.cr8(), 5);
        lapic.set_cr8(4);
        check_eq!(read(&mut lapic, TPR), 0x40);
        takes(&mut lapic, 0x55)?;
        check_eq!(lapic.ppr(), 0x50);
        lapic.set_cr8(0xf);
        check_eq!(lapic.ppr(), 0xf0);
    }

    fn levels_are_told_of_their_end() {
        let mut lapic = xapic(0);
        lapic.accept(0x61, true);
        check_eq!(read(&mut lapic, TMR + 0x30), 2);
        takes(&mut lapic, 0x61)?;
        check_eq!(write(&mut lapic, EOI, 0), Effect::EndOfInterrupt(0x61));
        // As an edge, the trigger mode register forgets.
        lapic.accept(0x61, false);
        takes(&mut lapic, 0x61)?;
        check_eq!(write(&mut lapic, EOI, 0), Effect::EndOfEdge(0x61));
        check_eq!(write(&mut lapic, SVR, ENABLED | SUPPRESS_EOI), Effect::None);
        lapic.accept(0x61, true);
        takes(&mut lapic, 0x61)?;
        check_eq!(write(&mut lapic, EOI, 0), Effect::None);
        check_eq!(write(&mut lapic, EOI, 0), Effect::None);
    }

    fn software_disable_keeps_but_takes_nothing() {
        let mut lapic = xapic(1);
        lapic.accept(0x41, false);
        let _ = write(&mut lapic, LVT_TIMER, 0x50);
        check_eq!(write(&mut lapic, SVR, 0xff), Effect::Address);
        check!(!lapic.address().enabled);
        check_eq!(read(&mut lapic, LVT_TIMER), MASKED | 0x50);
        check!(!lapic.accept(0x42, false));
        // What was requested is still to be taken.
        takes(&mut lapic, 0x41)?;
        // No mask can be taken off.
        let _ = write(&mut lapic, LVT_TIMER, 0x51);
        check_eq!(read(&mut lapic, LVT_TIMER), MASKED | 0x51);
        check_eq!(write(&mut lapic, SVR, ENABLED), Effect::Address);
        check_eq!(read(&mut lapic, LVT_TIMER), MASKED | 0x51);
        check_eq!(write(&mut lapic, SVR, ENABLED), Effect::None);
    }

    fn errors_are_latched_by_a_write() {
        let mut lapic = xapic(0);
        let _ = write(&mut lapic, LVT_ERROR, 0xe1);
        check!(!lapic.accept(0x0f, false));
        check_eq!(read(&mut lapic, ESR), 0);
        takes(&mut lapic, 0xe1)?;
        let _ = lapic.end_of_interrupt();
        // The same error again is no news.
        check!(!lapic.accept(0x00, false));
        check_eq!(lapic.pending(), None);
        // An unknown register is.
        check_eq!(read(&mut lapic, 0x40), 0);
        takes(&mut lapic, 0xe1)?;
        let _ = write(&mut lapic, ESR, 0xffff);
        check_eq!(read(&mut lapic, ESR), 0xc0);
        let _ = write(&mut lapic, ESR, 0);
        check_eq!(read(&mut lapic, ESR), 0);
        check_eq!(write(&mut lapic, ICR, 0x0e), Effect::None);
        let _ = write(&mut lapic, SELF_IPI, 0x44);
        let _ = write(&mut lapic, ESR, 0);
        check_eq!(read(&mut lapic, ESR), 0xa0);
        // An error interrupt that is itself in error ends there.
        let _ = write(&mut lapic, LVT_ERROR, 0x01);
        let _ = read(&mut lapic, 0x40);
        let _ = write(&mut lapic, ESR, 0);
        check_eq!(read(&mut lapic, ESR), 0xc0);
    }

    fn interrupt_commands_send_messages() {
        let mut lapic = xapic(2);
        let _ = write(&mut lapic, ICR_HIGH, 5 << 24);
        let plain = Message { destination: 5, vector: 0x99, assert: true, ..Message::default() };
        check_eq!(write(&mut lapic, ICR, 0x4099), Effect::Send(plain));
        check_eq!(read(&mut lapic, ICR), 0x4099);
        check_eq!(read(&mut lapic, ICR_HIGH), 5 << 24);
        let logical = Message { logical: true, delivery: Delivery::LowestPriority, ..plain };
        check_eq!(write(&mut lapic, ICR, 0x4999), Effect::Send(logical));
        for (bits, shorthand) in [(2 << 18, Shorthand::All), (3 << 18, Shorthand::Others)] {
            let expected = Message { shorthand, ..plain };
            check_eq!(write(&mut lapic, ICR, bits | 0x4099), Effect::Send(expected));
        }
        for (bits, delivery) in [
            (0x4200, Delivery::Smi), (0x4400, Delivery::Nmi), (0xc500, Delivery::Init),
            (0x4600, Delivery::StartUp),
        ] {
            let expected = Message { delivery, vector: 0x08, ..plain };
            check_eq!(write(&mut lapic, ICR, bits | 0x08), Effect::Send(expected));
        }
        // The deassertion of INIT, and remote read.
        check_eq!(write(&mut lapic, ICR, 0x8500), Effect::None);
        check_eq!(write(&mut lapic, ICR, 0x4399), Effect::None);
        let _ = write(&mut lapic, ICR_HIGH, 0xff << 24);
        let broadcast = Message { destination: BROADCAST, ..plain };
        check_eq!(write(&mut lapic, ICR, 0x4099), Effect::Send(broadcast));
    }

    fn an_interrupt_to_itself_is_accepted() {
        let mut lapic = xapic(2);
        check_eq!(write(&mut lapic, ICR, 1 << 18 | 0x4077), Effect::None);
        takes(&mut lapic, 0x77)?;
        let mut lapic = x2apic(2);
        check_eq!(lapic.write_msr(msr(SELF_IPI), 0x78, 0), Ok(Effect::None));
        takes(&mut lapic, 0x78)?;
    }

    fn addresses_follow_the_registers() {
        let mut lapic = xapic(0x102);
        check_eq!(read(&mut lapic, ID), 0x0200_0000);
        check_eq!(write(&mut lapic, LDR, 0x84ff_ffff), Effect::Address);
        check_eq!(read(&mut lapic, LDR), 0x8400_0000);
        check_eq!(write(&mut lapic, DFR, 0x0fff_ffff), Effect::Address);
        check_eq!(read(&mut lapic, DFR), 0x0fff_ffff);
        let address = lapic.address();
        check_eq!((address.id, address.logical_id, address.model, address.mode, address.enabled),
            (0x102, 0x84, Model::Cluster, Mode::XApic, true));
        check_eq!(write(&mut lapic, ID, 0x0700_0000), Effect::None);
        check_eq!(read(&mut lapic, ID), 0x0200_0000);
    }

    fn partial_accesses() {
        let mut lapic = xapic(1);
        let mut byte = [0xaa];
        lapic.read_page(ID + 3, &mut byte, 0);
        check_eq!(byte, [1]);
        let mut wide = [0xaa; 8];
        lapic.read_page(VERSION, &mut wide, 0);
        check_eq!(wide, [0x15, 0, 5, 1, 0, 0, 0, 0]);
        lapic.read_page(VERSION + 4, &mut wide, 0);
        check_eq!(wide, [0; 8]);
        for (offset, data) in [(TPR, &[0x20_u8][..]), (TPR + 1, &[1, 2, 3, 4]), (TPR, &[1; 8])] {
            check_eq!(lapic.write_page(offset, data, 0), Effect::None);
            check_eq!(read(&mut lapic, TPR), 0);
        }
    }

    fn modes_change_by_the_rules() {
        const OFF: u64 = base::DEFAULT;
        const XAPIC: u64 = base::DEFAULT | base::EN;
        const INVALID: u64 = base::DEFAULT | base::EXTD;
        for (from, to, allowed) in [
            (XAPIC, XAPIC, true), (XAPIC, OFF, true), (XAPIC, X2APIC, true), (XAPIC, INVALID, false),
            (X2APIC, X2APIC, true), (X2APIC, OFF, true), (X2APIC, XAPIC, false),
            (X2APIC, INVALID, false), (OFF, OFF, true), (OFF, XAPIC, true), (OFF, X2APIC, false),
            (OFF, INVALID, false),
        ] {
            let mut lapic = xapic(1);
            check_eq!(lapic.set_base(from), Ok(Effect::Address));
            check_eq!(lapic.set_base(to).is_ok(), allowed, "{from:#x} to {to:#x}");
            check_eq!(lapic.base(), if allowed { to } else { from });
        }
        let mut lapic = xapic(0);
        check_eq!(lapic.set_base(XAPIC | 1), Err(GeneralProtection));
        check_eq!(lapic.set_base(XAPIC | 1 << 40), Err(GeneralProtection));
        check_eq!(lapic.set_base(1 << 39 | base::EN), Ok(Effect::Address));
        check_eq!(lapic.page(), Some(1 << 39));
        // Whether it says that it is the bootstrap processor's is the writer's.
        check_eq!(lapic.base(), 1 << 39 | base::EN);
        check_eq!(lapic.set_base(XAPIC | base::BSP), Ok(Effect::Address));
        check_eq!(lapic.base(), XAPIC | base::BSP);
        lapic.config_mut().x2apic = false;
        check_eq!(lapic.set_base(X2APIC), Err(GeneralProtection));
    }

    fn turning_it_off_resets_it() {
        let mut lapic = xapic(1);
        lapic.accept(0x41, false);
        let _ = write(&mut lapic, TPR, 0x20);
        let _ = lapic.set_base(base::DEFAULT);
        check_eq!(lapic.address().mode, Mode::Disabled);
        check_eq!(lapic.page(), None);
        check_eq!(lapic.pending(), None);
        check!(!lapic.accept(0x41, false));
        check!(lapic.accepts_extint());
        check!(nmi(&mut lapic, Source::Lint1));
        let _ = lapic.set_base(base::DEFAULT | base::EN);
        check_eq!(lapic, raw(1));
    }

    fn x2apic_registers() {
        let mut lapic = x2apic(0x123);
        check_eq!(lapic.page(), None);
        check_eq!(lapic.read_msr(msr(ID), 0), Ok(0x123));
        check_eq!(lapic.read_msr(msr(LDR), 0), Ok(0x0012_0008));
        check_eq!(lapic.read_msr(msr(VERSION), 0), Ok(0x0105_0015));
        check_eq!(lapic.read_msr(msr(SVR), 0), Ok(0x1ff));
        check_eq!(lapic.write_msr(msr(TPR), 0x35, 0), Ok(Effect::None));
        check_eq!(lapic.read_msr(msr(PPR), 0), Ok(0x35));
        let sent = lapic.write_msr(msr(ICR), 0x0000_0123_0000_0899, 0);
        check_eq!(sent, Ok(Effect::Send(Message {
            destination: 0x123,
            logical: true,
            vector: 0x99,
            assert: true,
            ..Message::default()
        })));
        check_eq!(lapic.read_msr(msr(ICR), 0), Ok(0x0000_0123_0000_0899));
        // Here 0xff is an ID.
        let sent = lapic.write_msr(msr(ICR), 0xff_0000_0099, 0);
        check!(matches!(sent, Ok(Effect::Send(Message { destination: 0xff, .. }))));
        lapic.accept(0x51, true);
        takes(&mut lapic, 0x51)?;
        check_eq!(lapic.write_msr(msr(EOI), 0, 0), Ok(Effect::EndOfInterrupt(0x51)));
    }

    fn x2apic_faults() {
        let mut lapic = x2apic(1);
        for offset in [EOI, SELF_IPI, DFR, ICR_HIGH, 0x90, 0xc0, 0x2f0, 0x40, 0x3a0, 0x400] {
            check_eq!(lapic.read_msr(msr(offset), 0), Err(GeneralProtection), "{offset:#x}");
        }
        for (offset, value) in [
            (ID, 0), (VERSION, 0), (PPR, 0), (LDR, 0), (DFR, 0), (ISR, 0), (TMR, 0), (IRR, 0),
            (CURRENT_COUNT, 0), (ICR_HIGH, 0), (0x2f0, 0),
            (EOI, 1), (ESR, 1), (TPR, 0x100), (SVR, 0x200_01ff), (ICR, 1 << 20), (ICR, 1 << 13),
            (LVT_TIMER, 1 << 8), (LVT_TIMER, 1 << 32), (LVT_LINT0, 1 << 17), (LVT_ERROR, 1 << 8),
            (DIVIDE, 4), (INITIAL_COUNT, 1 << 32), (SELF_IPI, 0x100),
        ] {
            let result = lapic.write_msr(msr(offset), value, 0);
            check_eq!(result, Err(GeneralProtection), "{offset:#x} = {value:#x}");
        }
        // Out of the mode there are none at all.
        check_eq!(xapic(1).read_msr(msr(ID), 0), Err(GeneralProtection));
        check_eq!(xapic(1).write_msr(msr(EOI), 0, 0), Err(GeneralProtection));
        check!(LocalApic::has_msr(0x83f) && !LocalApic::has_msr(0x7ff) && !LocalApic::has_msr(0x900));
    }

    fn the_8259s_come_through_lint0() {
        let mut boot = raw(0);
        check!(boot.accepts_extint());
        check!(!raw(1).accepts_extint());
        let _ = write(&mut boot, SVR, ENABLED);
        check!(boot.accepts_extint());
        let _ = write(&mut boot, LVT_LINT0, MASKED | 0x700);
        check!(!boot.accepts_extint());
        let _ = write(&mut boot, LVT_LINT0, 0x700);
        check!(boot.accepts_extint());
        let _ = write(&mut boot, LVT_LINT0, 0x31);
        check!(!boot.accepts_extint());
        check_eq!(boot.local_interrupt(Source::Lint0), None);
        takes(&mut boot, 0x31)?;
        let _ = write(&mut boot, SVR, 0xff);
        let _ = write(&mut boot, LVT_LINT0, 0x700);
        check!(!boot.accepts_extint());
    }

    fn nmis_come_through_lint1_and_counters() {
        let mut lapic = xapic(1);
        check!(!nmi(&mut lapic, Source::Lint1));
        let _ = write(&mut lapic, LVT_LINT1, 0x400);
        check!(nmi(&mut lapic, Source::Lint1));
        let _ = write(&mut lapic, LVT_PERFORMANCE, 0x400);
        check!(nmi(&mut lapic, Source::Performance));
        let _ = write(&mut lapic, LVT_PERFORMANCE, 0x0e3);
        check!(!nmi(&mut lapic, Source::Performance));
        takes(&mut lapic, 0xe3)?;
        // Read-only and reserved bits stay clear.
        let _ = write(&mut lapic, LVT_LINT1, u32::MAX);
        check_eq!(read(&mut lapic, LVT_LINT1), 0x0001_a7ff);
    }

    fn the_timer_interrupts() {
        let mut lapic = xapic(0);
        let _ = write(&mut lapic, DIVIDE, 0xb);
        let _ = write(&mut lapic, LVT_TIMER, 0xec);
        check_eq!(lapic.write_page(INITIAL_COUNT, &1000_u32.to_le_bytes(), 500), Effect::Timer);
        check_eq!(lapic.deadline(), Deadline::At(1500));
        let mut count = [0; 4];
        lapic.read_page(CURRENT_COUNT, &mut count, 700);
        check_eq!(u32::from_le_bytes(count), 800);
        check!(!lapic.advance(1499, 0));
        check_eq!(lapic.pending(), None);
        check!(lapic.advance(1500, 0));
        takes(&mut lapic, 0xec)?;
        let _ = lapic.end_of_interrupt();
        // Masked, it runs but does not interrupt.
        let _ = write(&mut lapic, LVT_TIMER, MASKED | 0xec);
        let _ = lapic.write_page(INITIAL_COUNT, &1000_u32.to_le_bytes(), 2000);
        check!(lapic.advance(3000, 0));
        check_eq!(lapic.pending(), None);
        // What is due is not lost to the write that comes first.
        let _ = write(&mut lapic, LVT_TIMER, 0xec);
        let _ = lapic.write_page(INITIAL_COUNT, &1000_u32.to_le_bytes(), 4000);
        let _ = lapic.write_page(INITIAL_COUNT, &1000_u32.to_le_bytes(), 5001);
        takes(&mut lapic, 0xec)?;
        check_eq!(lapic.deadline(), Deadline::At(6001));
    }

    fn the_timer_in_periodic_mode() {
        let mut lapic = xapic(0);
        let _ = write(&mut lapic, DIVIDE, 0xb);
        let _ = write(&mut lapic, LVT_TIMER, 1 << 17 | 0xec);
        let _ = write(&mut lapic, INITIAL_COUNT, 1_000_000);
        for n in 1..4 {
            check_eq!(lapic.deadline(), Deadline::At(n * 1_000_000));
            check!(lapic.advance(n * 1_000_000 + 5, 0));
            takes(&mut lapic, 0xec)?;
            let _ = lapic.end_of_interrupt();
        }
    }

    fn the_timer_in_tsc_deadline_mode() {
        let mut lapic = x2apic(0);
        let timer = 1 << 18 | 0xec;
        check_eq!(lapic.write_msr(msr(LVT_TIMER), timer, 0), Ok(Effect::Timer));
        check_eq!(lapic.set_tsc_deadline(5000), Effect::Timer);
        check_eq!(lapic.deadline(), Deadline::Tsc(5000));
        check!(!lapic.advance(u64::MAX, 4999));
        check!(lapic.advance(0, 5000));
        check_eq!(lapic.tsc_deadline(), 0);
        takes(&mut lapic, 0xec)?;
        check_eq!(lapic.read_msr(msr(CURRENT_COUNT), 0), Ok(0));
        // Where CPUID does not offer it the bit is reserved.
        lapic.config_mut().tsc_deadline = false;
        check_eq!(lapic.write_msr(msr(LVT_TIMER), timer, 0), Err(GeneralProtection));
    }

    fn init_keeps_the_mode_and_the_id() {
        let mut lapic = x2apic(3);
        lapic.accept(0x41, true);
        let _ = lapic.write_msr(msr(TPR), 0x20, 0);
        let _ = lapic.write_msr(msr(INITIAL_COUNT), 100, 0);
        lapic.init();
        check_eq!(lapic.base(), X2APIC);
        check_eq!(lapic.read_msr(msr(ID), 0), Ok(3));
        check_eq!((lapic.pending(), lapic.ppr(), lapic.enabled()), (None, 0, false));
        check_eq!(lapic.deadline(), Deadline::None);
        lapic.reset();
        check_eq!(lapic, raw(3));
    }

    fn saved_registers_restore() {
        let mut lapic = xapic(1);
        for (offset, value) in [
            (TPR, 0x20), (LDR, 0x0200_0000), (DFR, 0x0fff_ffff), (ICR_HIGH, 7 << 24), (ICR, 0x40e1),
            (LVT_TIMER, 1 << 17 | 0xec), (LVT_LINT0, 0x700), (DIVIDE, 3), (INITIAL_COUNT, 5000),
        ] {
            let _ = write(&mut lapic, offset, value);
        }
        lapic.accept(0x41, true);
        lapic.acknowledge(0x41);
        lapic.accept(0x92, false);
        let saved = lapic.registers(16_000);
        check_eq!(saved[0x39], 4000);
        let mut copy = raw(1);
        copy.accept(0x77, false);
        copy.set_registers(&saved, 1_000_000);
        check_eq!(copy.registers(1_000_000), saved);
        check_eq!(copy.deadline(), Deadline::At(1_000_000 + 4000 * 16));
        check_eq!(copy.pending(), Some(0x92));
        // As VMMs do it: LINT0 and LINT1 set before anything is enabled.
        let mut fresh = raw(1);
        let mut registers = fresh.registers(0);
        registers[0x35] = 0x700;
        registers[0x36] = 0x400;
        fresh.set_registers(&registers, 0);
        check!(fresh.accepts_extint());
        check!(nmi(&mut fresh, Source::Lint1));
        // Vectors that cannot be accepted are kept, and interrupt nobody.
        registers[0x0f] = 0x1ff;
        registers[0x20] = 0xa5a5;
        fresh.set_registers(&registers, 0);
        check_eq!(fresh.registers(0)[0x20], 0xa5a5);
        check!(fresh.enabled());
        check_eq!(fresh.pending(), None);
        // Bits of the command that mean nothing are kept as well, but for the delivery status.
        registers[0x30] = u32::MAX;
        fresh.set_registers(&registers, 0);
        check_eq!(fresh.registers(0)[0x30], !(1 << 12));
        let _ = write(&mut fresh, ICR, 0xfff3_38a5);
        check_eq!(read(&mut fresh, ICR), 0xfff3_28a5);
    }

    fn any_access_does_no_harm() {
        for mut lapic in [xapic(1), x2apic(1)] {
            let mut seed = 1_u32;
            for now in 0..20_000 {
                seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let [low, value, choice, index] = seed.to_le_bytes();
                let offset = u64::from(index & 0x3f) * 16;
                let value = u64::from(value) << (low & 31);
                match choice & 7 {
                    0 | 1 => { let _ = lapic.write_page(offset, &(value as u32).to_le_bytes(), now); }
                    2 | 3 => { let _ = lapic.write_msr(msr(offset), value, now); }
                    4 => lapic.read_page(offset + u64::from(low & 15), &mut [0; 4], now),
                    5 => { let _ = lapic.read_msr(msr(offset), now); }
                    6 => { lapic.accept(index, low & 1 != 0); }
                    _ => if let Some(vector) = lapic.pending() {
                        check!(vector >= 16);
                        lapic.acknowledge(vector);
                    },
                }
                let _ = lapic.advance(now, now);
            }
        }
    }
}
