//! [`Native`]: the processor itself, by its instructions; the switch from the host's world into a guest's and back.
//!
//! What CLGI holds back comes after STGI, with the host's state in place: so nothing of the host's runs between the two. Interrupts are on
//! there, in the sense of RFLAGS.IF, which says whether one ends VMRUN.
//!
//! Behind the guest all registers that it left are cleared, and what the predictor of returns has of it is overwritten, before anything of the
//! host's uses them. Deviation: what else a kernel does on processors whose returns can be predicted by a guest
//! (Zen 1 to Zen 4: Retbleed, SRSO) is the kernel's, and is not done.
//!
//! See: AMD APM vol. 2, 15.5, 15.6, 15.17, 15.21.1; vol. 3, VMRUN, VMLOAD, VMSAVE, CLGI, STGI.

use core::arch::asm;

use arch_x86::cpuid::Leaf;
use arch_x86::regs::efer;

use super::Processor;
use crate::vmcb::Vmcb;

/// The numbers of registers.
mod msr {
    pub const SPEC_CTRL: u32 = 0x48;
    pub const PRED_CMD: u32 = 0x49;
    pub const XSS: u32 = 0xda0;
    pub const EFER: u32 = 0xc000_0080;
    pub const TSC_AUX: u32 = 0xc000_0103;
    pub const VM_CR: u32 = 0xc001_0114;
    pub const VM_HSAVE_PA: u32 = 0xc001_0117;
}

/// The processor that this runs on.
#[derive(Clone, Copy, Debug, Default)]
pub struct Native;

/// Reads a model-specific register.
///
/// # Safety
/// The processor has it, and the privilege level is 0.
unsafe fn read_msr(number: u32) -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: by the contract; a read of these changes nothing.
    unsafe {
        asm!("rdmsr", in("ecx") number, out("eax") low, out("edx") high, options(nomem, nostack, preserves_flags));
    }
    u64::from(high) << 32 | u64::from(low)
}

/// Writes a model-specific register.
///
/// # Safety
/// The processor has it and takes the value, the privilege level is 0, and nothing that the compiler or the kernel counts on changes.
unsafe fn write_msr(number: u32, value: u64) {
    // SAFETY: by the contract.
    unsafe {
        asm!("wrmsr", in("ecx") number, in("eax") value as u32, in("edx") (value >> 32) as u32, options(nostack, preserves_flags));
    }
}

/// As many calls as the predictor of returns keeps.
const CALLS: u32 = 32;

/// Calls itself `depth` times, before any of the calls returns: no address that the predictor has is the guest's then. It is a function as
/// the kernel's own are, of which its tools need not be told.
/// See: AMD, Software Techniques for Managing Speculation on AMD Processors, mitigation V2-3.
#[inline(never)]
fn overwrite_returns(depth: u32) {
    if depth > 0 {
        overwrite_returns(depth - 1);
        // SAFETY: it does nothing; but there is something behind the call, which therefore is no jump.
        unsafe { asm!("", options(nomem, nostack, preserves_flags)) };
    }
}

impl Processor for Native {
    fn cpuid(&self, function: u32, index: u32) -> Leaf {
        let (eax, ebx, ecx, edx): (u32, u64, u32, u32);
        // SAFETY: every x86-64 processor has CPUID. RBX, which the compiler keeps for itself, is put back.
        unsafe {
            asm!(
                "mov {kept}, rbx", "cpuid", "xchg {kept}, rbx",
                kept = out(reg) ebx, inout("eax") function => eax, inout("ecx") index => ecx, out("edx") edx,
                options(nostack, preserves_flags),
            );
        }
        [eax, ebx as u32, ecx, edx]
    }

    fn cr4(&self) -> u64 {
        let value;
        // SAFETY: the module runs at privilege level 0.
        unsafe { asm!("mov {}, cr4", out(reg) value, options(nomem, nostack, preserves_flags)) };
        value
    }

    fn vm_cr(&self) -> u64 {
        // SAFETY: a processor with SVM has it, which was asked first.
        unsafe { read_msr(msr::VM_CR) }
    }

    fn is_on(&self) -> bool {
        // SAFETY: every x86-64 processor has it.
        unsafe { read_msr(msr::EFER) & efer::SVME != 0 }
    }

    fn switch_on(&self, save_area: u64) {
        // SAFETY: SVM is there, and the bit changes nothing but that its instructions exist; the page is theirs alone.
        unsafe {
            write_msr(msr::EFER, read_msr(msr::EFER) | efer::SVME);
            write_msr(msr::VM_HSAVE_PA, save_area);
        }
    }

    fn switch_off(&self) {
        if !self.is_on() {
            return;
        }
        // SAFETY: SVM is on, so STGI exists: whoever interrupts this to do the same does not come back. Who crashes between CLGI and STGI
        // needs it. Nothing runs a guest here any more.
        unsafe {
            asm!("stgi", options(nostack, preserves_flags));
            write_msr(msr::VM_HSAVE_PA, 0);
            write_msr(msr::EFER, read_msr(msr::EFER) & !efer::SVME);
        }
    }

    fn xcr0(&self) -> u64 {
        let (low, high): (u32, u32);
        // SAFETY: asked for only where CPUID says that XSAVE is on.
        unsafe {
            asm!("xgetbv", in("ecx") 0, out("eax") low, out("edx") high, options(nomem, nostack, preserves_flags));
        }
        u64::from(high) << 32 | u64::from(low)
    }

    fn set_xcr0(&self, value: u64) {
        let (low, high) = (value as u32, (value >> 32) as u32);
        // SAFETY: a value that the processor takes: the host's, or one that XSETBV's checks let through. No vector register is used until
        // the host's is back.
        unsafe {
            asm!("xsetbv", in("ecx") 0, in("eax") low, in("edx") high, options(nomem, nostack, preserves_flags));
        }
    }

    fn xss(&self) -> u64 {
        // SAFETY: asked for only where CPUID has XSAVES.
        unsafe { read_msr(msr::XSS) }
    }

    fn set_xss(&self, value: u64) {
        // SAFETY: 0, or the host's own value; nothing executes XSAVES until that is back.
        unsafe { write_msr(msr::XSS, value) }
    }

    fn tsc_aux(&self) -> u64 {
        // SAFETY: asked for only where CPUID has RDTSCP or RDPID.
        unsafe { read_msr(msr::TSC_AUX) }
    }

    fn set_tsc_aux(&self, value: u64) {
        // SAFETY: 32 bits, which it takes; only user space reads it.
        unsafe { write_msr(msr::TSC_AUX, value & 0xffff_ffff) }
    }

    fn dr(&self, n: u8) -> u64 {
        let value: u64;
        // SAFETY: the module runs at privilege level 0.
        unsafe {
            match n {
                0 => asm!("mov {}, dr0", out(reg) value, options(nomem, nostack, preserves_flags)),
                1 => asm!("mov {}, dr1", out(reg) value, options(nomem, nostack, preserves_flags)),
                2 => asm!("mov {}, dr2", out(reg) value, options(nomem, nostack, preserves_flags)),
                3 => asm!("mov {}, dr3", out(reg) value, options(nomem, nostack, preserves_flags)),
                6 => asm!("mov {}, dr6", out(reg) value, options(nomem, nostack, preserves_flags)),
                _ => asm!("mov {}, dr7", out(reg) value, options(nomem, nostack, preserves_flags)),
            }
        }
        value
    }

    fn set_dr(&self, n: u8, value: u64) {
        // SAFETY: the host's own value, or an address of the guest's while no breakpoint is enabled.
        unsafe {
            match n {
                0 => asm!("mov dr0, {}", in(reg) value, options(nostack, preserves_flags)),
                1 => asm!("mov dr1, {}", in(reg) value, options(nostack, preserves_flags)),
                2 => asm!("mov dr2, {}", in(reg) value, options(nostack, preserves_flags)),
                3 => asm!("mov dr3, {}", in(reg) value, options(nostack, preserves_flags)),
                6 => asm!("mov dr6, {}", in(reg) value, options(nostack, preserves_flags)),
                _ => asm!("mov dr7, {}", in(reg) value, options(nostack, preserves_flags)),
            }
        }
    }

    fn speculation_control(&self) -> u64 {
        // SAFETY: asked for only where CPUID has one of its bits.
        unsafe { read_msr(msr::SPEC_CTRL) }
    }

    fn set_speculation_control(&self, value: u64) {
        // SAFETY: the host's own value, or that with bits which CPUID has: it restricts what the processor predicts, and nothing else.
        unsafe { write_msr(msr::SPEC_CTRL, value) }
    }

    fn forget_branches(&self) {
        // SAFETY: asked for only where CPUID has the barrier; it changes predictions alone.
        unsafe { write_msr(msr::PRED_CMD, 1) }
    }

    fn machine_check(&self) {
        // SAFETY: the kernel has a handler of machine checks, which looks at the processor's banks and comes back.
        unsafe { asm!("int 0x12") };
    }

    unsafe fn run(&self, vmcb: &mut Vmcb, physical: u64, host: u64, registers: &mut [u64; 16]) {
        // SAFETY: by the contract the guest reaches only what is its own. RBX and RBP, which the compiler keeps for itself, are put back;
        // all other general-purpose registers are operands. RSP, and all that VMSAVE saves, is the host's again behind VMLOAD. Vector
        // registers are the guest's before and behind it: the kernel is compiled to use none. The VMCB is an operand so that the compiler
        // knows that it changes.
        unsafe {
            asm!(
                "push rbx",
                "push rbp",
                "push rdi",
                "push rdx",
                "mov rax, rdx",
                "clgi",
                "vmsave rax",
                "mov rax, rsi",
                "sti",
                "vmload rax",
                "mov rcx, [rdi + 8]",
                "mov rdx, [rdi + 16]",
                "mov rbx, [rdi + 24]",
                "mov rbp, [rdi + 40]",
                "mov rsi, [rdi + 48]",
                "mov r8, [rdi + 64]",
                "mov r9, [rdi + 72]",
                "mov r10, [rdi + 80]",
                "mov r11, [rdi + 88]",
                "mov r12, [rdi + 96]",
                "mov r13, [rdi + 104]",
                "mov r14, [rdi + 112]",
                "mov r15, [rdi + 120]",
                "mov rdi, [rdi + 56]",
                "vmrun rax",
                // RAX is the host's again: the VMCB's address.
                "vmsave rax",
                "mov rax, [rsp + 8]",
                "mov [rax + 8], rcx",
                "mov [rax + 16], rdx",
                "mov [rax + 24], rbx",
                "mov [rax + 40], rbp",
                "mov [rax + 48], rsi",
                "mov [rax + 56], rdi",
                "mov [rax + 64], r8",
                "mov [rax + 72], r9",
                "mov [rax + 80], r10",
                "mov [rax + 88], r11",
                "mov [rax + 96], r12",
                "mov [rax + 104], r13",
                "mov [rax + 112], r14",
                "mov [rax + 120], r15",
                "pop rax",
                "vmload rax",
                "pop rdi",
                "xor ecx, ecx",
                "xor edx, edx",
                "xor ebx, ebx",
                "xor ebp, ebp",
                "xor esi, esi",
                "xor edi, edi",
                "xor r8d, r8d",
                "xor r9d, r9d",
                "xor r10d, r10d",
                "xor r11d, r11d",
                "xor r12d, r12d",
                "xor r13d, r13d",
                "xor r14d, r14d",
                "xor r15d, r15d",
                "cli",
                "stgi",
                "pop rbp",
                "pop rbx",
                inout("rdi") registers.as_mut_ptr() => _,
                inout("rsi") physical => _,
                inout("rdx") host => _,
                inout("rcx") core::ptr::from_mut(vmcb) => _,
                out("rax") _,
                out("r8") _, out("r9") _, out("r10") _, out("r11") _,
                out("r12") _, out("r13") _, out("r14") _, out("r15") _,
            );
        }
        // Before anything returns. An NMI may come before, whose returns are of its own calls.
        overwrite_returns(CALLS);
    }
}
