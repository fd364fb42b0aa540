//! Test bodies of `debug`.

use abi::debug::{
    DebugRegs, GUESTDBG_BLOCKIRQ, GUESTDBG_ENABLE, GUESTDBG_INJECT_BP, GUESTDBG_INJECT_DB,
    GUESTDBG_SINGLESTEP, GUESTDBG_USE_HW_BP, GUESTDBG_USE_SW_BP, GuestDebug,
};
use abi::ioctl::{GET_DEBUGREGS, NMI, SET_DEBUGREGS, SET_GUEST_DEBUG, TRANSLATE};
use abi::regs::Translation;
use selftest::{cases, check, check_eq};
use virt::{Errno, Host};

use super::caller::Caller;
use crate::emulate::debug::{dr6, dr7};
use crate::engine::{Event, Intercept};
use crate::exception::{self, Exception};
use crate::guest_debug::DebugCause;
use crate::regs::{Regs, cr4, rflags};
use crate::vcpu::run_test::{CODE, TestVcpu, enable_apic, engine, out};
use crate::vcpu::{Answer, Exit};

/// Lets interrupts through.
fn set_if_of(vcpu: &mut TestVcpu) {
    let flags = vcpu.engine().rflags();
    vcpu.engine_mut().set_rflags(flags | rflags::IF);
}

/// A debugger that wants `control`, and these breakpoints.
fn debugger(control: u32, debugreg: [u64; 8]) -> GuestDebug {
    GuestDebug { control: GUESTDBG_ENABLE | control, pad: 0, debugreg }
}

cases! {
    fn debug_registers_go_there_and_back() {
        let (caller, mut vcpu) = Caller::with_vcpu()?;
        let regs = DebugRegs {
            db: [0x1000, !0, 0xffff_8000_0000_0000, 3],
            dr6: dr6::FIXED | dr6::BS | 5,
            dr7: dr7::FIXED | 0xd_0302,
            ..DebugRegs::default()
        };
        check_eq!(caller.set(&mut vcpu, SET_DEBUGREGS, &regs), Ok(0));
        check_eq!((vcpu.engine().dr(1), vcpu.engine().dr(7)), (!0, dr7::FIXED | 0xd_0302));
        let got: DebugRegs = caller.get(&mut vcpu, GET_DEBUGREGS)?;
        check_eq!(got, regs);
        // Bits that are fixed are.
        check_eq!(caller.set(&mut vcpu, SET_DEBUGREGS, &DebugRegs::default()), Ok(0));
        check_eq!((vcpu.engine().dr(6), vcpu.engine().dr(7)), (dr6::FIXED, dr7::FIXED));
        for wrong in [
            DebugRegs { flags: 1, ..regs }, DebugRegs { dr6: 1 << 32, ..regs },
            DebugRegs { dr7: 1 << 63, ..regs },
        ] {
            caller.refused(&mut vcpu, SET_DEBUGREGS, &wrong, Errno::EINVAL)?;
        }
    }

    fn a_debugger_gets_what_it_wants() {
        let (caller, mut vcpu) = Caller::with_vcpu()?;
        check_eq!(caller.fixture.host.write(CODE, &[0xcc, 0x90]), Ok(()));
        let wanted = debugger(GUESTDBG_SINGLESTEP | GUESTDBG_USE_SW_BP, [0; 8]);
        check_eq!(caller.set(&mut vcpu, SET_GUEST_DEBUG, &wanted), Ok(0));
        check_eq!(vcpu.engine().exception_intercepts, !0);
        engine(&mut vcpu).then(|_, _| Intercept::Exception(Exception::plain(exception::BP)));
        let cause = DebugCause::SoftwareBreakpoint;
        check_eq!(vcpu.run(Answer::None), Exit::Debug { cause, address: CODE });
        // Not enabled, it is none.
        let off = GuestDebug { control: GUESTDBG_SINGLESTEP, ..wanted };
        check_eq!(caller.set(&mut vcpu, SET_GUEST_DEBUG, &off), Ok(0));
        check_eq!(vcpu.engine().exception_intercepts, 0);
    }

    fn breakpoints_are_those_that_dr7_enables() {
        let (caller, mut vcpu) = Caller::with_vcpu()?;
        // 0: off. 1: write, 4 bytes, local. 2: execute, global. 3: read and write, 8 bytes.
        let control = 0xd << 20 | 0xb << 28 | 1 << 2 | 1 << 5 | 3 << 6;
        let wanted = debugger(GUESTDBG_USE_HW_BP, [1, 0x5000, 0x6000, 0x7000, 0, 0, 0, control]);
        check_eq!(caller.set(&mut vcpu, SET_GUEST_DEBUG, &wanted), Ok(0));
        check_eq!(vcpu.engine().exception_intercepts, 1 << exception::DB);
        engine(&mut vcpu).then(|state, _| {
            let [_, one, two, three, _, control] = state.debug;
            let enabled = dr7::FIXED | dr7::GD | 0xa8 | 0xd << 20 | 0xb << 28;
            if (one, two, three, control) == (0x5000, 0x6000, 0x7000, enabled) {
                return Intercept::Exception(Exception::db(4));
            }
            Intercept::Shutdown
        });
        let cause = DebugCause::Exception { stepped: false, breakpoints: 4 };
        check_eq!(vcpu.run(Answer::None), Exit::Debug { cause, address: CODE });
        // A port.
        let port = debugger(GUESTDBG_USE_HW_BP, [0, 0, 0, 0, 0, 0, 0, 1 | 2 << 16]);
        caller.refused(&mut vcpu, SET_GUEST_DEBUG, &port, Errno::EINVAL)?;
        // Not to be used, they are not looked at.
        let unused = GuestDebug { control: GUESTDBG_ENABLE, ..port };
        check_eq!(caller.set(&mut vcpu, SET_GUEST_DEBUG, &unused), Ok(0));
        for control in [1 << 2, 1 << 31] {
            caller.refused(&mut vcpu, SET_GUEST_DEBUG, &debugger(control, [0; 8]), Errno::EINVAL)?;
        }
    }

    fn accesses_to_debug_registers_come_out_by_themselves() {
        let (caller, mut vcpu) = Caller::with_vcpu()?;
        let wanted = debugger(GUESTDBG_USE_HW_BP, [0, 0, 0, 0, 0, 0, 0, dr7::FIXED | dr7::GD]);
        check_eq!(caller.set(&mut vcpu, SET_GUEST_DEBUG, &wanted), Ok(0));
        engine(&mut vcpu).then(|state, _| match state.debug[5] & dr7::GD {
            0 => Intercept::Shutdown,
            _ => Intercept::Exception(Exception::db(dr6::BD)),
        });
        let access = Exit::Debug { cause: DebugCause::RegisterAccess, address: CODE };
        check_eq!(vcpu.run(Answer::None), access);
        check_eq!(vcpu.engine().dr(7) & dr7::GD, 0);
        // Nothing of it is left behind it.
        check_eq!(caller.set(&mut vcpu, SET_GUEST_DEBUG, &GuestDebug::default()), Ok(0));
        check_eq!(vcpu.engine().exception_intercepts, 0);
    }

    fn a_debugger_keeps_interrupts_away() {
        let (caller, mut vcpu) = Caller::with_vcpu()?;
        enable_apic(&mut vcpu)?;
        set_if_of(&mut vcpu);
        // To itself, vector 0x41.
        check_eq!(vcpu.write_msr(0x83f, 0x41), Ok(()));
        check_eq!(Caller::call_with(&mut vcpu, NMI, 0), Ok(0));
        let wanted = debugger(GUESTDBG_SINGLESTEP | GUESTDBG_BLOCKIRQ, [0; 8]);
        check_eq!(caller.set(&mut vcpu, SET_GUEST_DEBUG, &wanted), Ok(0));
        engine(&mut vcpu).then(|_, _| Intercept::Exception(Exception::db(dr6::BS)));
        let stepped = DebugCause::Exception { stepped: true, breakpoints: 0 };
        check_eq!(vcpu.run(Answer::None), Exit::Debug { cause: stepped, address: CODE });
        check_eq!(vcpu.engine().injected(), []);
        check_eq!(caller.set(&mut vcpu, SET_GUEST_DEBUG, &GuestDebug::default()), Ok(0));
        engine(&mut vcpu).then(|_, _| Intercept::NmiWindow);
        engine(&mut vcpu).then(out);
        check!(matches!(vcpu.run(Answer::None), Exit::Out { .. }));
        check_eq!(vcpu.engine().injected(), [Event::Nmi, Event::Interrupt { vector: 0x41 }]);
    }

    fn a_debugger_raises_exceptions() {
        for (control, vector) in [(GUESTDBG_INJECT_DB, exception::DB), (GUESTDBG_INJECT_BP, exception::BP)] {
            let (caller, mut vcpu) = Caller::with_vcpu()?;
            let wanted = GuestDebug { control, ..GuestDebug::default() };
            check_eq!(caller.set(&mut vcpu, SET_GUEST_DEBUG, &wanted), Ok(0));
            caller.refused(&mut vcpu, SET_GUEST_DEBUG, &wanted, Errno::EBUSY)?;
            engine(&mut vcpu).then(out);
            vcpu.run(Answer::None);
            check_eq!(vcpu.engine().injected(), [Event::Exception(Exception::plain(vector))]);
        }
    }

    fn addresses_are_translated() {
        let (caller, mut vcpu) = Caller::with_vcpu()?;
        let host = &caller.fixture.host;
        // A user may use what is below; not so the first page.
        check_eq!(host.write(0x2000, &0x3007_u64.to_le_bytes()), Ok(()));
        check_eq!(host.write(0x3000, &0x4007_u64.to_le_bytes()), Ok(()));
        // Its second directory entry leads to a table of a user's read-only page.
        check_eq!(host.write(0x4008, &0x5007_u64.to_le_bytes()), Ok(()));
        check_eq!(host.write(0x5008, &0x9005_u64.to_le_bytes()), Ok(()));
        engine(&mut vcpu).set_cr4(cr4::PAE | cr4::SMAP);
        let ask = |linear_address| Translation { linear_address, ..Translation::default() };
        for (linear, physical, rights) in [
            (0x1234, Some(0x1234), [1, 0]),
            (0x20_1234, Some(0x9234), [0, 1]),
            (0x20_0000, None, [0, 0]),
            (1 << 47, None, [0, 0]),
            (0x8000_0000, None, [0, 0]),
        ] {
            check_eq!(caller.set(&mut vcpu, TRANSLATE, &ask(linear)), Ok(0));
            let got: Translation = caller.at(0);
            check_eq!(got.linear_address, linear);
            let expected = (physical.unwrap_or(!0), u8::from(physical.is_some()));
            check_eq!((got.physical_address, got.valid), expected, "{linear:x}");
            check_eq!([got.writeable, got.usermode], rights, "{linear:x}");
        }
        // Nobody has used the page.
        let mut entry = [0; 8];
        check_eq!(host.read(0x5008, &mut entry), Ok(()));
        check_eq!(u64::from_le_bytes(entry), 0x9005);
        check!(vcpu.translate(0x1000).is_some());
    }
}
