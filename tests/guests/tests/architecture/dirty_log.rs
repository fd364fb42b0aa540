//! Which pages the guest has written to. See: Linux, Documentation/virt/kvm/api.rst, 4.8.

use guests::paging::{Tables, pte};
use guests::x86::{Answer, Data, Exit, cr4};
use guests::{
    Guest, Hypervisor, IcedError, Log, Memory, MemoryFlags, MemoryId, Vm, at, code_asm::*, port,
    states,
};

/// Where the region is whose writes are logged, and an address of nobody's.
pub const PLACE: u64 = at::NOWHERE;
pub const NOBODY: u64 = at::NOWHERE + (4 << 20);
pub const SIZE: u64 = 2 << 20;
pub const PAGE: u64 = 4096;
pub const PLAIN: MemoryFlags = MemoryFlags { read_only: false, log_dirty: false };
const LOGGED: MemoryFlags = MemoryFlags { log_dirty: true, ..PLAIN };

/// A part of a program.
type Part = fn(&mut CodeAssembler) -> Result<(), IcedError>;

/// An address in a page of the region.
const fn page(number: u64, offset: u64) -> u64 {
    PLACE + number * PAGE + offset
}

/// The pages of a bitmap.
pub fn pages(bitmap: &[u64]) -> Vec<u64> {
    let all = (0..).zip(bitmap);
    all.flat_map(|(n, word)| {
        (0..64).filter(move |bit| word >> bit & 1 != 0).map(move |bit| n * 64 + bit)
    })
    .collect()
}

fn take<H: Hypervisor>(guest: &Guest<H>, id: MemoryId) -> Vec<u64> {
    let taken = guest.vm.take_dirty(id).expect("it is logged");
    assert_eq!(taken.len() as u64, (SIZE / PAGE).div_ceil(64));
    pages(&taken)
}

/// Adds the region.
pub fn region<H: Hypervisor>(guest: &Guest<H>, flags: MemoryFlags) -> (Memory, MemoryId) {
    let memory = Memory::region(PLACE, SIZE);
    let id = guest.vm.add_memory(memory.to_region(), flags).expect("room");
    (memory, id)
}

/// Runs to the end of the next round of what is repeated; what is read of a device or a port is 0x5a.
pub fn round<H: Hypervisor>(guest: &mut Guest<H>) {
    let mut answer = Answer::None;
    loop {
        match guest.run_to_exit(answer, &mut Log::default()) {
            Exit::Out { port, .. } if u32::from(port) == port::FREE => return,
            Exit::MmioRead { size, .. } => {
                answer = Answer::Data(Data::new(&[0x5a; 8][..size.into()]))
            }
            Exit::In { size, count, .. } => {
                let bytes = usize::from(size) * usize::from(count);
                answer = Answer::Data(Data::new(&[0x5a; Data::MAX][..bytes]));
            }
            exit => panic!("{exit:x?} at {:x?}", guest.state()),
        }
    }
}

/// A guest that executes a part of a program again and again, each time from the same registers, RBX at the region.
fn repeating<H: Hypervisor>(engine: &H, part: Part) -> Guest<H> {
    let guest = Guest::with_program(engine, |a| {
        let mut again = a.create_label();
        a.mov(rax, cr4)?;
        a.or(eax, cr4::OSXSAVE as i32)?;
        a.mov(cr4, rax)?;
        a.set_label(&mut again)?;
        a.mov(rbx, PLACE)?;
        a.mov(rsp, at::STACK)?;
        part(a)?;
        a.out(port::FREE, al)?;
        a.jmp(again)
    });
    guest.handler(3, |a| a.iretq());
    guest
}

/// What is repeated writes to these pages and no others: before it is logged, when it is, and each time again.
fn check<H: Hypervisor>(engine: &H, expected: &[u64], part: Part) {
    let mut guest = repeating(engine, part);
    let (_memory, id) = region(&guest, PLAIN);
    round(&mut guest);
    round(&mut guest);
    guest.vm.log_dirty(id, true).expect("room for a log");
    assert_eq!(take(&guest, id), [0; 0], "the log is new");
    for n in 0..4 {
        round(&mut guest);
        assert_eq!(take(&guest, id), expected, "round {n}");
        assert_eq!(take(&guest, id), [0; 0], "taken before");
    }
    // Twice without taking.
    round(&mut guest);
    round(&mut guest);
    assert_eq!(take(&guest, id), expected);
}

/// Has the page table of `linear` be at `place`; gives what is to be there.
fn into_region(
    tables: &mut Tables,
    memory: &Memory,
    linear: u64,
    place: u64,
) -> [u8; PAGE as usize] {
    let path = tables.map(memory, linear, linear, PAGE, pte::P | pte::W);
    tables.write(memory, path[2], place | pte::ALL);
    memory.read(path[3] & !(PAGE - 1))
}

guests::on_every_engine! {
    fn plain_stores_are_logged(engine) {
        check(engine, &[0, 1, 3, 63, 64, 511], |a| {
            a.mov(byte_ptr(rbx), 1)?;
            a.mov(word_ptr(rbx + 0x1123), 2)?;
            a.mov(dword_ptr(rbx + 0x3000), 3)?;
            a.mov(qword_ptr(rbx + 0x3_fff8), rbx)?;
            a.mov(rdx, page(64, 8))?;
            a.mov(qword_ptr(rdx), rbx)?;
            a.mov(rdx, page(511, 0xfff))?;
            a.setz(byte_ptr(rdx))
        });
    }

    fn reads_are_not(engine) {
        check(engine, &[], |a| {
            a.mov(eax, dword_ptr(rbx))?;
            a.cmp(dword_ptr(rbx + 0x1000), 5)?;
            a.test(byte_ptr(rbx + 0x2000), 5)?;
            a.bt(dword_ptr(rbx + 0x3000), 5)?;
            a.movups(xmm0, xmmword_ptr(rbx + 0x4ff8))?;
            a.lea(rsp, qword_ptr(rbx + 0x6000))?;
            a.pop(rax)?;
            a.mov(rsi, page(7, 0))?;
            a.mov(ecx, 0x1800)?;
            a.rep().lodsb()?;
            a.prefetchw(byte_ptr(rbx + 0x9000))?;
            a.mov(ecx, 0)?;
            a.mov(rdi, page(11, 0))?;
            a.rep().stosb()
        });
    }

    fn what_is_read_and_written_is_logged(engine) {
        check(engine, &[0, 1, 2, 3, 4, 5, 6, 7, 8], |a| {
            a.add(dword_ptr(rbx), 5)?;
            a.inc(byte_ptr(rbx + 0x1000))?;
            a.not(qword_ptr(rbx + 0x2000))?;
            a.shl(word_ptr(rbx + 0x3000), 1)?;
            a.xchg(dword_ptr(rbx + 0x4000), eax)?;
            // Found to be equal, and not: both are writes.
            a.xor(eax, eax)?;
            a.cmpxchg(dword_ptr(rbx + 0x5000), eax)?;
            a.mov(eax, 1)?;
            a.cmpxchg(dword_ptr(rbx + 0x6000), eax)?;
            // A bit of another page.
            a.mov(edx, 0x7000 * 8)?;
            a.bts(dword_ptr(rbx), edx)?;
            a.shld(dword_ptr(rbx + 0x8000), eax, 3)
        });
    }

    fn locked_updates_are_logged(engine) {
        check(engine, &[20, 21, 22, 23], |a| {
            a.lock().add(dword_ptr(rbx + 0x14000), 5)?;
            a.lock().xadd(qword_ptr(rbx + 0x15000), rax)?;
            a.xor(eax, eax)?;
            a.xor(edx, edx)?;
            a.push(rbx)?;
            a.mov(rdi, rbx)?;
            a.xor(ecx, ecx)?;
            a.xor(ebx, ebx)?;
            a.lock().cmpxchg16b(xmmword_ptr(rdi + 0x16000))?;
            a.lock().cmpxchg8b(qword_ptr(rdi + 0x17000))?;
            a.pop(rbx)
        });
    }

    fn strings_are_logged(engine) {
        check(engine, &[30, 31, 32, 33, 40, 41, 45, 46], |a| {
            a.mov(rdi, page(30, 0xff0))?;
            a.mov(ecx, 0x2020)?;
            a.rep().stosb()?;
            a.mov(rsi, page(35, 0xf00))?;
            a.mov(rdi, page(40, 0x800))?;
            a.mov(ecx, 0x1000 / 8)?;
            a.rep().movsq()?;
            a.mov(rdi, page(45, 0x10))?;
            a.stosd()?;
            // Backwards.
            a.std()?;
            a.mov(rdi, page(46, 0x10))?;
            a.mov(ecx, 4)?;
            a.rep().stosw()?;
            a.cld()
        });
    }

    fn what_is_pushed_is_logged(engine) {
        check(engine, &[8, 10, 12, 13, 15, 17], |a| {
            let mut function = a.create_label();
            let mut behind = a.create_label();
            a.lea(rsp, qword_ptr(rbx + 0x9000))?;
            a.push(rax)?;
            a.push(rcx)?;
            a.pop(rcx)?;
            a.lea(rsp, qword_ptr(rbx + 0xb000))?;
            a.call(function)?;
            a.jmp(behind)?;
            a.set_label(&mut function)?;
            a.ret()?;
            a.set_label(&mut behind)?;
            // Half in one page, half in the other.
            a.lea(rsp, qword_ptr(rbx + 0xd004))?;
            a.push(rax)?;
            a.lea(rsp, qword_ptr(rbx + 0x10000))?;
            a.pushfq()?;
            // An exception's frame, which IRETQ takes again.
            a.lea(rsp, qword_ptr(rbx + 0x12000))?;
            a.int3()
        });
    }

    fn an_access_to_two_pages_marks_both(engine) {
        check(engine, &[1, 2, 4, 5, 7, 8, 10, 11, 13, 14], |a| {
            a.mov(dword_ptr(rbx + 0x1ffe), 5)?;
            a.mov(qword_ptr(rbx + 0x4fff), rbx)?;
            a.add(dword_ptr(rbx + 0x7ffd), 5)?;
            a.lock().add(dword_ptr(rbx + 0xaffd), 5)?;
            a.movups(xmmword_ptr(rbx + 0xdff8), xmm0)
        });
    }

    fn vector_and_x87_stores_are_logged(engine) {
        check(engine, &[1, 2, 3, 4, 5, 6, 7, 9, 11], |a| {
            a.movaps(xmmword_ptr(rbx + 0x1000), xmm1)?;
            a.movntdq(xmmword_ptr(rbx + 0x2000), xmm1)?;
            a.movss(dword_ptr(rbx + 0x3000), xmm1)?;
            a.movhps(qword_ptr(rbx + 0x4000), xmm1)?;
            a.fld1()?;
            a.fstp(tword_ptr(rbx + 0x5000))?;
            a.fldz()?;
            a.fistp(dword_ptr(rbx + 0x6000))?;
            a.fxsave(byte_ptr(rbx + 0x7000))?;
            a.mov(eax, 3)?;
            a.xor(edx, edx)?;
            a.xsave(byte_ptr(rbx + 0x9000))?;
            a.mov(rdi, page(11, 0))?;
            a.pcmpeqd(xmm2, xmm2)?;
            a.maskmovdqu(xmm1, xmm2)
        });
    }

    /// Loops whose accesses are looked up once a page.
    fn loops_are_logged(engine) {
        check(engine, &[50, 51, 52, 60, 61], |a| {
            let (mut up, mut down) = (a.create_label(), a.create_label());
            a.mov(rdi, page(50, 0x800))?;
            a.mov(rsi, page(70, 0))?;
            a.mov(ecx, 0x1900 / 8)?;
            a.set_label(&mut up)?;
            a.mov(rax, qword_ptr(rsi))?;
            a.mov(qword_ptr(rdi), rax)?;
            a.add(rsi, 8)?;
            a.add(rdi, 8)?;
            a.dec(ecx)?;
            a.jnz(up)?;
            a.mov(rdi, page(61, 0x100))?;
            a.mov(ecx, 0x200 / 4)?;
            a.set_label(&mut down)?;
            a.add(dword_ptr(rdi), 1)?;
            a.sub(rdi, 4)?;
            a.dec(ecx)?;
            a.jnz(down)
        });
    }

    /// What the instruction's emulation writes: its operand is a device's, or a port's.
    fn what_comes_from_a_device_is_logged(engine) {
        check(engine, &[3, 5, 6, 8], |a| {
            a.mov(rsi, NOBODY)?;
            a.mov(rdi, page(3, 0x10))?;
            a.movsd()?;
            a.mov(dx, port::FREE + 4)?;
            a.mov(rdi, page(5, 0xffe))?;
            a.mov(ecx, 4)?;
            a.rep().insb()?;
            a.lea(rsp, qword_ptr(rbx + 0x9000))?;
            a.push(qword_ptr(rsi))
        });
    }

    /// A page that has code as well, and one that breakpoints look at.
    fn pages_that_take_the_slow_way_are_logged(engine) {
        let mut guest = repeating(engine, |a| {
            a.mov(rdx, page(20, 0))?;
            a.call(rdx)?;
            // A breakpoint on another page: all accesses are looked at.
            a.mov(rax, page(30, 0))?;
            a.mov(dr0, rax)?;
            a.mov(eax, 0xd0001)?;
            a.mov(dr7, rax)?;
            a.mov(dword_ptr(rbx + 0x16000), 1)?;
            a.xor(eax, eax)?;
            a.mov(dr7, rax)
        });
        let (memory, id) = region(&guest, PLAIN);
        let (code, []) = guests::programs::assemble(64, page(20, 0), |a| {
            a.inc(dword_ptr(rbx + 0x14800))?;
            a.inc(dword_ptr(rbx + 0x14040))?;
            a.ret()?;
            Ok([])
        });
        memory.write(20 * PAGE, &code);
        round(&mut guest);
        guest.vm.log_dirty(id, true).expect("room for a log");
        for _ in 0..4 {
            round(&mut guest);
            assert_eq!(take(&guest, id), [20, 22]);
        }
        assert_eq!(memory.read_u32(20 * PAGE + 0x800), 5);
    }

    /// By guest-physical address, whatever the linear one.
    fn user_modes_writes_are_logged(engine) {
        let mut guest = Guest::new(engine);
        let Guest { tables, memory, .. } = &mut guest;
        tables.map(memory, at::USER_DATA, page(33, 0), 0x1000, pte::ALL);
        guest.code(at::USER_CODE, |a| {
            let mut again = a.create_label();
            a.set_label(&mut again)?;
            a.mov(rax, qword_ptr(at::USER_DATA))?;
            a.out(port::FREE, al)?;
            a.mov(dword_ptr(at::USER_DATA + 4), 6)?;
            a.out(port::FREE, al)?;
            a.jmp(again)
        });
        let state = states::user(guest.long_mode());
        guest.set_state(&state);
        let (_memory, id) = region(&guest, LOGGED);
        for _ in 0..3 {
            round(&mut guest);
            assert_eq!(take(&guest, id), [0; 0]);
            round(&mut guest);
            assert_eq!(take(&guest, id), [33]);
        }
    }

    /// Accessed and dirty bits are writes of the guest's, to its page tables.
    fn bits_in_page_tables_are_logged(engine) {
        let linear = 0x6_0000;
        let mut guest = Guest::with_program(engine, |a| {
            let mut again = a.create_label();
            a.set_label(&mut again)?;
            a.invlpg(byte_ptr(linear))?;
            a.mov(eax, dword_ptr(linear))?;
            a.out(port::FREE, al)?;
            a.mov(dword_ptr(linear), eax)?;
            a.out(port::FREE, al)?;
            a.jmp(again)
        });
        let Guest { tables, memory, .. } = &mut guest;
        let table = into_region(tables, memory, linear, page(5, 0));
        let (memory, id) = region(&guest, LOGGED);
        memory.write(5 * PAGE, &table);
        let entry = 5 * PAGE + (linear >> 12) * 8;
        let bits = |memory: &Memory| memory.read_u64(entry) & (pte::A | pte::D);
        for expected in [pte::A, pte::A | pte::D] {
            round(&mut guest);
            assert_eq!(bits(&memory), expected);
            assert_eq!(take(&guest, id), [5]);
        }
    }

    /// What the hypervisor writes by itself for the guest: the place of its clock.
    fn the_paravirtual_clock_is_logged(engine) {
        const KVM_SYSTEM_TIME_NEW: u32 = 0x4b56_4d01;
        let mut guest = repeating(engine, |a| {
            a.mov(ecx, KVM_SYSTEM_TIME_NEW)?;
            a.mov(eax, (page(7, 0x40) | 1) as u32)?;
            a.xor(edx, edx)?;
            a.wrmsr()?;
            a.nop()
        });
        let (memory, id) = region(&guest, LOGGED);
        round(&mut guest);
        assert_eq!(take(&guest, id), [7]);
        assert_ne!(memory.read_u64(7 * PAGE + 0x48), 0, "a time stamp");
    }

    /// The same page as before it is logged, before it is taken, and behind: each time it counts.
    fn a_log_begins_empty_and_ends_when_it_is_switched_off(engine) {
        let mut guest = repeating(engine, |a| a.inc(dword_ptr(rbx + 0x9000)));
        let (memory, id) = region(&guest, PLAIN);
        round(&mut guest);
        guest.vm.take_dirty(id).expect_err("it is not logged");
        guest.vm.log_dirty(id, true).expect("room for a log");
        round(&mut guest);
        // Again: that is nothing new.
        guest.vm.log_dirty(id, true).expect("it is");
        assert_eq!(take(&guest, id), [9]);
        round(&mut guest);
        guest.vm.log_dirty(id, false).expect("it can be");
        round(&mut guest);
        guest.vm.take_dirty(id).expect_err("no longer");
        guest.vm.log_dirty(id, true).expect("room for a log");
        assert_eq!(take(&guest, id), [0; 0]);
        round(&mut guest);
        assert_eq!(take(&guest, id), [9]);
        assert_eq!(memory.read_u32(9 * PAGE), 5);
    }

    fn what_the_host_writes_is_not_logged(engine) {
        let mut guest = repeating(engine, |a| a.mov(eax, dword_ptr(rbx + 0x9000)));
        let (memory, id) = region(&guest, PLAIN);
        memory.write(9 * PAGE, &[1; 4]);
        round(&mut guest);
        guest.vm.log_dirty(id, true).expect("room for a log");
        memory.write(9 * PAGE, &[5; 4]);
        round(&mut guest);
        assert_eq!(guest.state().gprs[0], 0x0505_0505);
        assert_eq!(take(&guest, id), [0; 0]);
    }

    /// Its pages are counted from its own start.
    fn a_region_that_is_moved_keeps_its_log(engine) {
        let mut guest = repeating(engine, |a| {
            a.mov(dword_ptr(rbx + 0x9000), 5)?;
            a.mov(dword_ptr(rbx + 0x1000), 5)
        });
        let (_memory, id) = region(&guest, LOGGED);
        round(&mut guest);
        guest.vm.move_memory(id, PLACE - 0x1000 * 3).expect("room");
        assert_eq!(take(&guest, id), [1, 9]);
        round(&mut guest);
        assert_eq!(take(&guest, id), [4, 12]);
    }

    fn read_only_memory_has_an_empty_log(engine) {
        let mut guest = repeating(engine, |a| a.mov(eax, dword_ptr(rbx + 0x9000)));
        let (_memory, id) = region(&guest, MemoryFlags { read_only: true, log_dirty: true });
        round(&mut guest);
        assert_eq!(take(&guest, id), [0; 0]);
    }
}
