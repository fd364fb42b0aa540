//! Bodies about pages and a guest's x87 and vector registers.

use alloc::boxed::Box;
use core::arch::asm;

use ::selftest::{Failure, Outcome, cases, check, check_eq};
use arch_x86::hardware::{GuestFpu, HostPage, Pages, Platform};
use arch_x86::regs::{FxArea, YmmHigh};
use virt::host::{BadAddress, Host};
use virt::host_test::{Mapped, PAGE, given};

use crate::host_test::{Here, map, unmap};
use crate::kernel::Kernel;

// SAFETY: it is the glue's function (glue/selftest.c), which computes an address.
unsafe extern "C" {
    /// Where the kernel has a physical address of RAM.
    safe fn unibody_at_physical(physical: u64) -> *const u64;
}

/// The first word of a page of the host's.
fn word_of(page: HostPage) -> u64 {
    // SAFETY: it is a page of RAM that this process has mapped, and nobody takes it away meanwhile.
    unsafe { unibody_at_physical(page.physical).read_volatile() }
}

/// XMM15 of the processor.
fn xmm15() -> [u64; 2] {
    let (low, high): (u64, u64);
    // SAFETY: it reads a register that whoever compiles for the kernel does not use; the other is put back.
    unsafe {
        asm!(
            "movq {low}, xmm15",
            "pshufd xmm15, xmm15, 0x4e",
            "movq {high}, xmm15",
            "pshufd xmm15, xmm15, 0x4e",
            low = out(reg) low,
            high = out(reg) high,
            options(nomem, nostack)
        );
    }
    [low, high]
}

/// Sets it.
fn set_xmm15(low: u64) {
    // SAFETY: the thread's registers are a guest's, which nobody relies on.
    unsafe { asm!("movq xmm15, {low}", low = in(reg) low, options(nomem, nostack)) };
}

/// YMM15 of the processor, which has AVX.
fn ymm15() -> [u64; 4] {
    let mut words = [0; 4];
    // SAFETY: it writes the 32 bytes that it is told of.
    unsafe { asm!("vmovdqu [{to}], ymm15", to = in(reg) words.as_mut_ptr(), options(nostack)) };
    words
}

/// What the thread's own registers are: looked at where the processor has them.
fn own_registers(fpu: &mut impl GuestFpu) -> [u64; 2] {
    Kernel.on_processor(|_| {
        Kernel.without_interrupts(|| {
            // They are loaded by the swap.
            fpu.load();
            fpu.put();
            xmm15()
        })
    })
}

/// What the processor has of the guest's.
fn on_processor<T>(fpu: &mut impl GuestFpu, look: impl FnOnce() -> T) -> T {
    Kernel.on_processor(|_| {
        Kernel.without_interrupts(|| {
            fpu.restore();
            look()
        })
    })
}

fn sample(n: u8) -> (Box<FxArea>, Box<YmmHigh>) {
    let (mut fx, mut ymm) = (Box::new(FxArea::at_reset()), Box::new(YmmHigh::default()));
    for register in 0..16 {
        let byte = n.wrapping_mul(16).wrapping_add(register + 1);
        fx.set_xmm(register, u128::from_le_bytes([byte; 16]));
        ymm.0[usize::from(register)] = u128::from_le_bytes([!byte; 16]);
    }
    // ST(0) to ST(7).
    for (at, byte) in fx.0[32..160].iter_mut().enumerate() {
        *byte = if at % 16 < 10 { n ^ at as u8 } else { 0 };
    }
    (fx, ymm)
}

/// The registers are the sample's, as far as the processor has them.
fn is_sample(fpu: &impl GuestFpu, n: u8, has_ymm: bool) -> Outcome {
    let (fx, ymm) = sample(n);
    let (found, upper) = fpu.registers();
    check!(found.0[32..160] == fx.0[32..160], "x87 registers");
    check!(found.0[160..416] == fx.0[160..416], "XMM registers");
    check!(!has_ymm || *upper == *ymm, "upper halves");
    Ok(())
}

/// Whether the processor has registers of 256 bits that the kernel saves.
fn has_avx() -> Result<bool, Failure> {
    let mut fpu = given(Kernel.fpu())?;
    fpu.registers_mut().1.0[15] = 1;
    fpu.load();
    fpu.put();
    // Where there are none it stays, too: but it is not the processor's then.
    // It has AVX, and the kernel saves by XSAVE.
    let high = core::arch::x86_64::__cpuid(1).ecx >> 27 & 3 == 3;
    Ok(high && fpu.registers().1.0[15] == 1)
}

cases! {
    fn pages_are_zeroed_and_where_they_say() {
        for count in [1, 2, 3, 16, 64] {
            let pages = given(Kernel.pages(count))?;
            let size = count * PAGE as usize;
            check_eq!(pages.address().addr() % PAGE as usize, 0);
            check_eq!(pages.physical() % PAGE, 0);
            check_eq!(unibody_at_physical(pages.physical()).addr(), pages.address().addr());
            // SAFETY: the pages are there, and nobody else has them.
            let bytes = unsafe { core::slice::from_raw_parts_mut(pages.address(), size) };
            check!(bytes.iter().all(|byte| *byte == 0), "{count} pages");
            bytes.fill(0xa5);
        }
        for count in [0, 1 << 20, usize::MAX, usize::MAX / 4096] {
            check_eq!(Kernel.pages(count).err(), Some(virt::Errno::ENOMEM), "{count}");
        }
        let pages = given(Kernel.pages(4))?;
        Kernel.without_interrupts(|| drop(pages));
    }

    fn the_page_behind_an_address_is_found() {
        let pages = Mapped::<Here>::new()?;
        check_eq!(Kernel.write(pages.start, &0x1234_5678_9abc_def0_u64.to_le_bytes()), Ok(()));
        let written = given(Kernel.host_page(pages.start + 8, true))?;
        check_eq!((written.writable, written.physical % PAGE, written.size), (true, 0, PAGE));
        check_eq!(word_of(written), 0x1234_5678_9abc_def0);
        // It is there and can be written: so it is, though only to be read.
        check_eq!(Kernel.host_page(pages.start, false), Ok(written));
        let read_only = given(Kernel.host_page(pages.read_only() + 4095, false))?;
        check_eq!((read_only.writable, word_of(read_only)), (false, 0));
        check_eq!(Kernel.host_page(pages.read_only(), true), Err(BadAddress));
        for write in [false, true] {
            for bad in [pages.none(), 0, 1 << 63, !0 << 47, u64::MAX, 1 << 60, 0xffff_8880_0000_0000] {
                check_eq!(Kernel.host_page(bad, write), Err(BadAddress), "{bad:#x}");
            }
        }
    }

    fn a_page_is_brought_in_for_the_access() {
        let start = map(2 * PAGE, true, true)?;
        // Nobody has touched it: the page of zeros that all share.
        let shared = given(Kernel.host_page(start, false))?;
        let own = given(Kernel.host_page(start, true))?;
        let other = given(Kernel.host_page(start + PAGE, true))?;
        let again = given(Kernel.host_page(start, false))?;
        unmap(start, 2 * PAGE);
        check!(!shared.writable && own.writable && again.writable);
        check!(shared.physical != own.physical && own.physical != other.physical);
        check_eq!(again.physical, own.physical);
        check_eq!(Kernel.host_page(start, false), Err(BadAddress));
    }

    fn a_large_page_is_told() {
        const LARGE: u64 = 2 << 20;
        let start = map(4 * LARGE, true, true)?;
        let at = start.next_multiple_of(LARGE);
        check_eq!(Kernel.write(at + LARGE / 2, &[1]), Ok(()));
        let page = given(Kernel.host_page(at + LARGE / 2 + 5 * PAGE, true))?;
        let last = given(Kernel.host_page(at + LARGE - 1, true))?;
        unmap(start, 4 * LARGE);
        // Whether the kernel had one is its own choice.
        check!(page.size == PAGE || page.size == LARGE);
        if page.size == LARGE {
            check_eq!((page.physical - 5 * PAGE) % LARGE, LARGE / 2);
            check_eq!(last.physical, page.physical - 6 * PAGE + LARGE / 2);
        }
    }

    fn registers_are_as_at_reset() {
        let fpu = given(Kernel.fpu())?;
        let (fx, ymm) = fpu.registers();
        let reset = Box::new(FxArea::at_reset());
        check_eq!(fx.0[..24], reset.0[..24]);
        check_eq!(fx.mxcsr(), reset.mxcsr());
        check!(fx.0[32..416] == reset.0[32..416]);
        check!(*ymm == YmmHigh::default());
    }

    fn registers_go_to_the_processor_and_back() {
        let has_ymm = has_avx()?;
        let mut fpu = given(Kernel.fpu())?;
        let own = own_registers(&mut fpu);
        for n in 1..6 {
            let (fx, ymm) = sample(n);
            let (registers, upper) = fpu.registers_mut();
            registers.0[32..416].copy_from_slice(&fx.0[32..416]);
            *upper = *ymm;
            fpu.load();
            let seen = on_processor(&mut fpu, xmm15);
            let wide = if has_ymm { Some(on_processor(&mut fpu, ymm15)) } else { None };
            fpu.put();
            let expected = u64::from_le_bytes([n * 16 + 16; 8]);
            check_eq!(seen, [expected; 2]);
            check!(wide.is_none_or(|wide| wide == [expected, expected, !expected, !expected]));
            is_sample(&fpu, n, has_ymm)?;
            check!(own == own_registers(&mut fpu), "the thread's own registers have changed");
        }
    }

    fn registers_are_seen_and_changed_while_they_are_loaded() {
        let has_ymm = has_avx()?;
        let mut fpu = given(Kernel.fpu())?;
        let own = own_registers(&mut fpu);
        fpu.load();
        let mut outcome = Ok(());
        for n in 1..40_u8 {
            outcome = change_while_loaded(&mut fpu, n, has_ymm);
            if outcome.is_err() {
                break;
            }
            // Others run, whose registers are others.
            if n % 2 == 0 {
                Kernel.yield_now();
            }
        }
        fpu.put();
        outcome?;
        check!(own == own_registers(&mut fpu), "the thread's own registers have changed");
    }

    fn registers_in_their_initial_state_are_written() {
        let has_ymm = has_avx()?;
        let mut fpu = given(Kernel.fpu())?;
        let (fx, ymm) = sample(3);
        *fpu.registers_mut().0 = *fx;
        *fpu.registers_mut().1 = *ymm;
        fpu.load();
        // All of them are in their initial state, which the processor keeps in mind.
        on_processor(&mut fpu, || {
            // SAFETY: the thread's registers are a guest's, which nobody relies on.
            unsafe {
                asm!("fninit", options(nomem, nostack));
                if has_ymm {
                    asm!("vzeroall", options(nomem, nostack));
                }
            }
        });
        fpu.put();
        let (found, upper) = fpu.registers();
        check_eq!(found.0[..2], [0x7f, 3]);
        check!(found.0[32..160].iter().enumerate().all(|(at, byte)| *byte == 0 || at % 16 < 10));
        check_eq!(found.mxcsr(), 0x1f80);
        if has_ymm {
            check!(found.0[160..416].iter().all(|byte| *byte == 0), "XMM registers");
            check!(*upper == YmmHigh::default(), "upper halves");
        }
    }

    fn registers_are_loaded_once_and_one_guests_at_a_time() {
        let (mut one, mut other) = (given(Kernel.fpu())?, given(Kernel.fpu())?);
        one.registers_mut().0.set_xmm(15, 0x11);
        other.registers_mut().0.set_xmm(15, 0x22);
        let own = own_registers(&mut one);
        one.load();
        one.load();
        // Refused: the thread's are not its own.
        other.load();
        let seen = on_processor(&mut one, xmm15);
        other.put();
        let still = on_processor(&mut one, xmm15);
        one.put();
        one.put();
        check_eq!((seen, still), ([0x11, 0], [0x11, 0]));
        check!(own == own_registers(&mut one));
        // Dropped, they are the thread's own again.
        one.load();
        drop(one);
        check!(own == own_registers(&mut other));
    }
}

/// Looks at the registers, changes them in memory, and sees that on the processor; and the other way round.
fn change_while_loaded(fpu: &mut impl GuestFpu, n: u8, has_ymm: bool) -> Outcome {
    let (fx, ymm) = sample(n % 15);
    let (registers, upper) = fpu.registers_mut();
    registers.0[32..416].copy_from_slice(&fx.0[32..416]);
    *upper = *ymm;
    let expected = u64::from_le_bytes([(n % 15) * 16 + 16; 8]);
    check_eq!(on_processor(fpu, xmm15), [expected; 2], "{n}");
    is_sample(fpu, n % 15, has_ymm)?;
    let other = 0x0102_0304_0506_0708 * u64::from(n % 30);
    on_processor(fpu, || set_xmm15(other));
    check_eq!(fpu.registers().0.xmm(15), u128::from(other), "{n}");
    Ok(())
}
