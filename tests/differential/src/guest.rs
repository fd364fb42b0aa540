//! The software CPU: [`Guest`] executes a case in 64-bit user mode.
//!
//! The regions lie where they do in this process. Every gate of the IDT leads to a HLT at privilege
//! level 0: the engine comes out there, and the stack has what the exception saved.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use arch_x86::emulate::Feature;
use arch_x86::engine::{Engine, EngineVcpu, Entry, Features, Intercept};
use arch_x86::regs::{Attr, Regs, Seg, Segment, State, SysReg, Table, cr0, cr4, efer, gpr, xcr0};
use engine_soft::{Options, SoftEngine, SoftVcpu};

use crate::case::{Case, End, Outcome};
use crate::host::{Mapping, PROCESSOR, descriptor, watched};
use crate::layout::{CODE, CODE_SIZE, PAGE, REGIONS, Rights};
use crate::vendor::is_amd;

/// Guest-physical addresses.
mod at {
    /// Page tables, allocated one after the other.
    pub const TABLES: u64 = 0x1000;
    pub const TABLES_END: u64 = 0x2_0000;
    pub const GDT: u64 = 0x2_0000;
    pub const IDT: u64 = 0x2_1000;
    pub const TSS: u64 = 0x2_2000;
    pub const HANDLERS: u64 = 0x2_3000;
    pub const STACK: u64 = 0x2_5000;
    /// The regions' backing memory.
    pub const BACKING: u64 = 0x10_0000;
    pub const END: u64 = 0x20_0000;
}

/// Where guest-physical memory up to [`at::BACKING`] lies for privilege level 0.
const KERNEL: u64 = 0xffff_9600_0000_0000;

/// Bits of page-table entries.
mod pte {
    pub const PRESENT: u64 = 1;
    pub const WRITABLE: u64 = 1 << 1;
    pub const USER: u64 = 1 << 2;
    pub const NX: u64 = 1 << 63;
}

/// Of the descriptor table: as many as Linux has, with what means anything to level 3 at the same places.
const GDT_ENTRIES: usize = 16;

/// Selectors: a user's are Linux's own, they can be read.
mod selector {
    pub const CODE: u16 = 0x10;
    pub const USER_DATA: u16 = 0x2b;
    pub const USER_CODE: u16 = 0x33;
    pub const TSS: u16 = 0x40;
}

const fn segment(selector: u16, attr: u16) -> Segment {
    Segment { base: 0, limit: !0, selector, attr: Attr(attr) }
}

/// The software CPU, ready to execute cases.
pub struct Guest {
    ram: Mapping,
    tables: u64,
    vcpu: SoftVcpu,
    request: Arc<AtomicU32>,
    /// Ends the thread that kicks.
    _over: Sender<()>,
}

/// Has the vCPU look at the request, which a signal has set: translated code has to be kicked, and no signal may do that.
fn kick(engine: &SoftEngine, request: &AtomicU32, over: &Receiver<()>) {
    const PERIOD: Duration = Duration::from_millis(20);
    while over.recv_timeout(PERIOD) == Err(RecvTimeoutError::Timeout) {
        if request.load(Ordering::SeqCst) != 0 {
            engine.kick(0);
        }
    }
}

impl Guest {
    /// A vCPU that has the instructions that the host's processor has.
    #[must_use]
    pub fn new(options: Options) -> Self {
        let ram = Mapping::anonymous(at::END);
        let engine = ram.engine(options);
        let vcpu = engine.create_vcpu(0).expect("a vCPU");
        let tables = at::TABLES + PAGE;
        let request = Arc::new(AtomicU32::new(0));
        let (over, ended) = channel();
        let kicked = Arc::clone(&request);
        std::thread::spawn(move || kick(&engine, &kicked, &ended));
        let mut guest = Self { ram, tables, vcpu, request, _over: over };
        guest.write_tables();
        guest.write_state();
        guest.vcpu.set_features(host_features());
        guest.vcpu.prepare().expect("a code cache");
        guest.ram.write(at::BACKING, &[0xcc; CODE_SIZE as usize]);
        guest
    }

    /// One that interprets all code.
    #[must_use]
    pub fn interpreter() -> Self {
        Self::new(Options { translated: 0, ..Options::default() })
    }

    /// One that translates code before it is executed for the first time.
    #[must_use]
    pub fn jit() -> Self {
        Self::new(Options { patience: 0, ..Options::default() })
    }

    /// How many blocks were translated.
    #[must_use]
    pub fn translated(&self) -> u64 {
        self.vcpu.statistics().translated
    }

    fn write_u64(&self, gpa: u64, value: u64) {
        self.ram.write(gpa, &value.to_le_bytes());
    }

    fn read_u64(&self, gpa: u64) -> u64 {
        let mut bytes = [0; 8];
        self.ram.read(gpa, &mut bytes);
        u64::from_le_bytes(bytes)
    }

    /// Maps the page at `linear`.
    fn map(&mut self, linear: u64, gpa: u64, bits: u64) {
        let mut table = at::TABLES;
        for level in (1..4).rev() {
            let entry = table + (linear >> (12 + 9 * level) & 511) * 8;
            if self.read_u64(entry) == 0 {
                assert!(self.tables < at::TABLES_END);
                self.write_u64(entry, self.tables | pte::PRESENT | pte::WRITABLE | pte::USER);
                self.tables += PAGE;
            }
            table = self.read_u64(entry) & 0xf_ffff_f000;
        }
        self.write_u64(table + (linear >> 12 & 511) * 8, gpa | bits | pte::PRESENT);
    }

    fn write_tables(&mut self) {
        for region in &REGIONS {
            let bits = match region.rights {
                Rights::Execute => pte::USER,
                Rights::Write => pte::USER | pte::WRITABLE | pte::NX,
                Rights::Read => pte::USER | pte::NX,
            };
            for at in (0..region.pages).map(|page| page * PAGE) {
                self.map(region.start + at, at::BACKING + region.offset + at, bits);
            }
        }
        for gpa in (at::GDT..at::STACK).step_by(PAGE as usize) {
            self.map(KERNEL + gpa, gpa, pte::WRITABLE);
        }
        let tss = KERNEL + at::TSS;
        let gdt = [
            0,
            0x00cf_9b00_0000_ffff,
            0x00af_9b00_0000_ffff,
            0x00cf_9300_0000_ffff,
            0x00cf_fb00_0000_ffff,
            0x00cf_f300_0000_ffff,
            0x00af_fb00_0000_ffff,
            0,
            0x0000_8b00_0000_0067 | (tss & 0xff_ffff) << 16 | (tss >> 24 & 0xff) << 56,
            tss >> 32,
            0,
            0,
            0,
            0,
            0,
            // See `start`.
            0,
        ];
        assert_eq!(gdt.len(), GDT_ENTRIES);
        for (n, descriptor) in (0..).zip(gdt) {
            self.write_u64(at::GDT + n * 8, descriptor);
        }
        self.write_u64(at::TSS + 4, KERNEL + at::STACK);
        // No bitmap of ports.
        self.ram.write(at::TSS + 0x66, &0x68_u16.to_le_bytes());
        for vector in 0..256 {
            let handler = KERNEL + at::HANDLERS + vector * 16;
            self.ram.write(at::HANDLERS + vector * 16, &[0xf4]);
            let gate = at::IDT + vector * 16;
            // As Linux has them: INT3 and INTO are for users.
            let kind = if matches!(vector, 3 | 4) { 0xee00 } else { 0x8e00 };
            let low = handler & 0xffff | u64::from(selector::CODE) << 16;
            self.write_u64(gate, low | kind << 32 | (handler >> 16 & 0xffff) << 48);
            self.write_u64(gate + 8, handler >> 32);
        }
    }

    fn write_state(&mut self) {
        let mut state = State::at_reset();
        state.cr0 = cr0::PE | cr0::PG | cr0::WP | cr0::NE | cr0::ET | cr0::MP | cr0::AM;
        state.cr3 = at::TABLES;
        state.cr4 = cr4::PAE | cr4::PGE | cr4::OSFXSR | cr4::OSXMMEXCPT | cr4::FSGSBASE;
        if is_x86_feature_detected!("xsave") {
            state.cr4 |= cr4::OSXSAVE;
            state.sysregs[SysReg::Xcr0 as usize] = components();
        }
        state.efer = efer::LME | efer::LMA | efer::NXE | efer::SCE;
        for seg in [Seg::Es, Seg::Ds, Seg::Fs, Seg::Gs] {
            state.segments[seg as usize] = segment(0, 0);
        }
        state.segments[Seg::Cs as usize] = segment(selector::USER_CODE, 0xafb);
        state.segments[Seg::Ss as usize] = segment(selector::USER_DATA, 0xcf3);
        state.cpl = 3;
        state.segments[Seg::Ldtr as usize] = segment(0, 0);
        state.segments[Seg::Tr as usize] = Segment {
            base: KERNEL + at::TSS,
            limit: 0x67,
            selector: selector::TSS,
            attr: Attr(0x8b),
        };
        state.gdtr = Table { base: KERNEL + at::GDT, limit: GDT_ENTRIES as u16 * 8 - 1 };
        state.idtr = Table { base: KERNEL + at::IDT, limit: 0xfff };
        state.write(&mut self.vcpu);
    }

    fn start(&mut self, case: &Case) {
        // Its limit is the number of the processor that the thread runs on.
        let processor = descriptor(PROCESSOR).unwrap_or(0);
        self.write_u64(at::GDT + u64::from(PROCESSOR & !7), processor);
        let vcpu = &mut self.vcpu;
        for (n, value) in (0..).zip(case.gprs) {
            vcpu.set_gpr(n, value);
        }
        vcpu.set_segment(Seg::Cs, segment(selector::USER_CODE, 0xafb));
        vcpu.set_segment(Seg::Ss, segment(selector::USER_DATA, 0xcf3));
        for seg in [Seg::Es, Seg::Ds] {
            vcpu.set_segment(seg, segment(0, 0));
        }
        for (seg, base) in [Seg::Fs, Seg::Gs].into_iter().zip(case.bases) {
            vcpu.set_segment(seg, Segment { base, ..segment(0, 0) });
        }
        vcpu.set_cpl(3);
        vcpu.set_rip(case.rip);
        vcpu.set_rflags(case.rflags);
        vcpu.set_interrupt_shadow(false);
        vcpu.set_dr(6, 0xffff_0ff0);
        *vcpu.fxsave_mut() = case.vector.fx;
        vcpu.ymm_high_mut().0 = case.vector.upper;
    }

    /// Executes a case on data that is `image` at first.
    pub fn run(&mut self, case: &Case, image: &[u8], outcome: &mut Outcome) {
        let code = case.bytes();
        let place = at::BACKING + (case.rip - CODE);
        self.ram.write(place, &code);
        self.ram.write(at::BACKING + CODE_SIZE, image);
        for (offset, bytes) in &case.patches {
            self.ram.write(at::BACKING + CODE_SIZE + *offset as u64, bytes);
        }
        self.start(case);
        let (vcpu, request) = (&mut self.vcpu, &*self.request);
        let entry = Entry { fresh: true, ..Entry::default() };
        let intercept = watched(request, || vcpu.enter(&entry, request));
        outcome.gprs = std::array::from_fn(|n| self.vcpu.gpr(n as u8));
        outcome.rip = self.vcpu.rip();
        outcome.rflags = self.vcpu.rflags();
        outcome.cr2 = 0;
        outcome.bases = [Seg::Fs, Seg::Gs].map(|seg| self.vcpu.segment_base(seg));
        outcome.selectors =
            [Seg::Es, Seg::Ds, Seg::Fs, Seg::Gs].map(|seg| self.vcpu.segment(seg).selector.into());
        outcome.vector.fx = *self.vcpu.fxsave();
        outcome.vector.upper = self.vcpu.ymm_high().0;
        outcome.end = match intercept {
            Intercept::Halt { .. } if self.vcpu.cpl() == 0 => self.exception(outcome),
            Intercept::Interrupted => End::Hang,
            other => End::CameOut(other),
        };
        self.ram.read(at::BACKING + CODE_SIZE, &mut outcome.image[..]);
        self.ram.write(place, &vec![0xcc; code.len()]);
    }

    /// An exception was delivered: what it saved.
    fn exception(&self, outcome: &mut Outcome) -> End {
        let vector = (outcome.rip.wrapping_sub(KERNEL + at::HANDLERS) / 16) as u8;
        let mut frame = outcome.gprs[usize::from(gpr::RSP)].wrapping_sub(KERNEL);
        let mut error = 0;
        if matches!(vector, 8 | 10..=14 | 17 | 21) {
            error = self.read_u64(frame);
            frame += 8;
        }
        outcome.rip = self.read_u64(frame);
        outcome.rflags = self.read_u64(frame + 16);
        outcome.gprs[usize::from(gpr::RSP)] = self.read_u64(frame + 24);
        if vector == 14 {
            outcome.cr2 = self.vcpu.cr2();
        }
        End::Exception { vector, error }
    }
}

/// What of XCR0 both processors have.
fn components() -> u64 {
    let avx = if is_x86_feature_detected!("avx") { xcr0::AVX } else { 0 };
    xcr0::X87 | xcr0::SSE | avx
}

/// The features among [`Feature`] that the host's processor has.
fn host_features() -> Features {
    [
        (Feature::Cmpxchg16b, is_x86_feature_detected!("cmpxchg16b")),
        (Feature::Popcnt, is_x86_feature_detected!("popcnt")),
        (Feature::Movbe, is_x86_feature_detected!("movbe")),
        (Feature::Lzcnt, is_x86_feature_detected!("lzcnt")),
        (Feature::Bmi1, is_x86_feature_detected!("bmi1")),
        (Feature::Bmi2, is_x86_feature_detected!("bmi2")),
        (Feature::Adx, is_x86_feature_detected!("adx")),
        (Feature::Fsgsbase, true),
        (Feature::Sse42, is_x86_feature_detected!("sse4.2")),
        (Feature::Clflushopt, leaf7().ebx >> 23 & 1 != 0),
        (Feature::Clwb, leaf7().ebx >> 24 & 1 != 0),
        (Feature::Invpcid, true),
        (Feature::Smap, true),
        (Feature::LegacySyscall, is_amd()),
        (Feature::LongSysenter, !is_amd()),
        (Feature::AmdEncodings, is_amd()),
        (Feature::Xsave, is_x86_feature_detected!("xsave")),
        (Feature::Avx, is_x86_feature_detected!("avx")),
        (Feature::Serialize, leaf7().edx >> 14 & 1 != 0),
    ]
    .into_iter()
    .fold(Features::default(), |all, (feature, on)| all.with(feature, on))
}

fn leaf7() -> std::arch::x86_64::CpuidResult {
    std::arch::x86_64::__cpuid_count(7, 0)
}
