//! Programs with BMI, MOVBE, CRC32 and ADX: how they go with what is around them.

use arch_x86::regs::{Regs, gpr, rflags};
use iced_x86::Mnemonic;
use iced_x86::code_asm::*;

use crate::Options;
use crate::test_bits::{Form, Rm, State, vcpu};
use crate::test_code::Random;
use crate::test_machine::{at, machine, pte, run_to_halt};
use crate::test_ways::in_every_way;

in_every_way! {
    long_numbers_are_multiplied,
    a_loop_over_pages_reads_all_of_them,
    flags_are_where_they_are_looked_at,
    what_is_only_read_is_not_written,
}

/// A page of data, and its end.
const PAGE: u64 = at::DATA;
const END: u64 = PAGE + 0x1000;

/// A number of 256 bits times one of 64, as libraries do it, with a carry in each of two flags.
fn long_numbers_are_multiplied(options: Options) {
    let machine = machine(options, |a| {
        a.xor(eax, eax)?;
        a.mulx(r9, r8, qword_ptr(rsi))?;
        a.mulx(r11, r10, qword_ptr(rsi + 8))?;
        a.adcx(r9, r10)?;
        a.adox(r8, qword_ptr(rdi))?;
        a.mulx(r15, r10, qword_ptr(rsi + 16))?;
        a.adcx(r11, r10)?;
        a.adox(r9, qword_ptr(rdi + 8))?;
        a.mulx(r10, rcx, qword_ptr(rsi + 24))?;
        a.adcx(r15, rcx)?;
        a.adox(r11, qword_ptr(rdi + 16))?;
        a.adcx(r10, rax)?;
        a.adox(r15, qword_ptr(rdi + 24))?;
        a.adox(r10, rax)?;
        a.hlt()
    });
    let mut vcpu = vcpu(&machine);
    let mut random = Random(6);
    for n in 0..64 {
        // Now and then across the end of a page.
        let [long, addend] = [END - 64 + n, at::DATA + 0x2000];
        // Or as large as they can be, which carries all the way.
        let ones = if n > 50 { u64::MAX } else { 0 };
        let [words, more] = [0, 1].map(|_| [0; 4].map(|_| random.bits() | ones));
        for at in 0..4 {
            machine.write_u64(long + at * 8, words[at as usize]);
            machine.write_u64(addend + at * 8, more[at as usize]);
        }
        let factor = random.bits();
        vcpu.set_rip(at::CODE);
        vcpu.set_gpr(gpr::RSI, long);
        vcpu.set_gpr(gpr::RDI, addend);
        vcpu.set_gpr(gpr::RDX, factor);
        run_to_halt(&mut vcpu);
        let mut carry = 0;
        let mut expected = [0; 5];
        for at in 0..4 {
            let sum = u128::from(words[at]) * u128::from(factor) + u128::from(more[at]) + carry;
            (expected[at], carry) = (sum as u64, sum >> 64);
        }
        expected[4] = carry as u64;
        assert_eq!([8, 9, 11, 15, 10].map(|n| vcpu.gpr(n)), expected);
    }
}

fn a_loop_over_pages_reads_all_of_them(options: Options) {
    const COUNT: u64 = 1500;
    let machine = machine(options, |a| {
        let mut top = a.create_label();
        a.set_label(&mut top)?;
        a.crc32(r10, qword_ptr(rsi))?;
        a.movbe(rax, qword_ptr(rsi))?;
        a.rorx(rax, rax, 16)?;
        a.movbe(qword_ptr(rdi), rax)?;
        a.mulx(r11, r9, qword_ptr(rsi))?;
        a.xor(rbx, r11)?;
        a.xor(r12, r9)?;
        a.shlx(rax, qword_ptr(rsi), rcx)?;
        a.pext(r15, rax, r8)?;
        a.add(rbp, r15)?;
        a.add(rsi, 8)?;
        a.add(rdi, 8)?;
        a.dec(rcx)?;
        a.jne(top)?;
        a.hlt()
    });
    let mut vcpu = vcpu(&machine);
    let mut random = Random(7);
    let (source, target) = (PAGE + 4, PAGE + 0x8001);
    for _ in 0..3 {
        let words: Vec<u64> = (0..COUNT).map(|_| random.bits()).collect();
        for (n, word) in (0..).zip(&words) {
            machine.write_u64(source + n * 8, *word);
        }
        let (factor, mask) = (random.bits(), random.bits());
        vcpu.set_rip(at::CODE);
        let registers = [
            (gpr::RSI, source),
            (gpr::RDI, target),
            (gpr::RCX, COUNT),
            (gpr::RDX, factor),
            (gpr::RBX, 0),
            (gpr::RBP, 0),
            (8, mask),
            (10, 0),
            (12, 0),
        ];
        registers.into_iter().for_each(|(n, value)| vcpu.set_gpr(n, value));
        run_to_halt(&mut vcpu);
        let mut state = State { gprs: [0; 16], rflags: 0, memory: 0 };
        let (mut high, mut low) = (0, 0);
        let form = |mnemonic: Mnemonic| {
            let is_it = |form: &Form| form.code.mnemonic() == mnemonic && form.size() == 8;
            *Form::all().iter().find(|form| is_it(form)).expect("a form")
        };
        let sum = form(Mnemonic::Crc32).instruction(10, 0, Rm::Memory(0, 0), 0);
        let pext = form(Mnemonic::Pext).instruction(15, 0, Rm::Register(8), 0);
        state.gprs[8] = mask;
        let mut all = 0u64;
        for (n, word) in (0..COUNT).zip(&words) {
            let product = u128::from(*word) * u128::from(factor);
            (high, low) = (high ^ (product >> 64) as u64, low ^ product as u64);
            state.memory = *word;
            state.execute(&sum);
            state.gprs[0] = word << ((COUNT - n) & 63);
            state.execute(&pext);
            all = all.wrapping_add(state.gprs[15]);
            assert_eq!(machine.read_u64(target + n * 8), word.rotate_left(16));
        }
        assert_eq!(
            [gpr::RBX, 12, 10, gpr::RBP].map(|n| vcpu.gpr(n)),
            [high, low, state.gprs[10], all]
        );
    }
}

/// Flags go by what changes none, and come out of what makes some, into SETcc, ADC and PUSHFQ.
fn flags_are_where_they_are_looked_at(options: Options) {
    let machine = machine(options, |a| {
        a.cmp(rax, rbx)?;
        a.rorx(rcx, qword_ptr(rsi), 8)?;
        a.pdep(r10, r11, qword_ptr(rsi))?;
        a.setb(byte_ptr(rdi))?;
        a.movbe(qword_ptr(rsi + 8), r10)?;
        a.adc(r12, 0)?;
        a.blsr(r9, qword_ptr(rsi))?;
        a.mov(r13, qword_ptr(rsi + 8))?;
        a.setb(byte_ptr(rdi + 1))?;
        a.sete(byte_ptr(rdi + 2))?;
        a.cmp(rbx, rax)?;
        a.adcx(r14, qword_ptr(rsi))?;
        a.pushfq()?;
        a.pop(r15)?;
        a.hlt()
    });
    let mut vcpu = vcpu(&machine);
    for (word, small) in [(0, 1), (0, 0), (8, 1), (12, 0), (u64::MAX, 1)] {
        machine.write_u64(PAGE, word);
        vcpu.set_rip(at::CODE);
        for (n, value) in [(gpr::RAX, 5 - small), (gpr::RBX, 5), (12, 0), (14, 1), (11, 3)] {
            vcpu.set_gpr(n, value);
        }
        vcpu.set_gpr(gpr::RSI, PAGE);
        vcpu.set_gpr(gpr::RDI, END + 0x100);
        run_to_halt(&mut vcpu);
        let rest = word & word.wrapping_sub(1);
        let bytes = [small, u64::from(word == 0), u64::from(rest == 0)];
        assert_eq!(machine.read_u64(END + 0x100).to_le_bytes()[..3], bytes.map(|byte| byte as u8));
        assert_eq!((vcpu.gpr(12), vcpu.gpr(9)), (small, rest));
        assert_eq!(vcpu.gpr(13), vcpu.gpr(10).swap_bytes());
        let (sum, carry) = word.overflowing_add(1);
        assert_eq!(vcpu.gpr(14), sum);
        let zero = if small == 0 { rflags::ZF | rflags::PF } else { 0 };
        let carry = if carry { rflags::CF } else { 0 };
        assert_eq!(vcpu.gpr(15) & rflags::STATUS, zero | carry, "{word:#x}");
    }
}

/// A page that was read, and may not be written.
fn what_is_only_read_is_not_written(options: Options) {
    let machine = machine(options, |a| {
        a.movbe(rax, qword_ptr(rsi))?;
        a.nop()?;
        a.movbe(qword_ptr(rsi), rbx)?;
        a.hlt()
    });
    machine.handle(14, &[0xf4]);
    machine.write_u64(PAGE, 0x0102_0304_0506_0708);
    machine.write_u64(at::PT + (PAGE >> 12) * 8, PAGE | pte::PRESENT);
    let mut vcpu = vcpu(&machine);
    for _ in 0..3 {
        vcpu.set_rip(at::CODE);
        vcpu.set_gpr(gpr::RSP, at::STACK);
        vcpu.set_gpr(gpr::RSI, PAGE);
        run_to_halt(&mut vcpu);
        assert_eq!(vcpu.gpr(gpr::RAX), 0x0807_0605_0403_0201);
        assert_eq!(vcpu.cr2(), PAGE);
        // MOVBE is five bytes long, NOP one.
        assert_eq!(machine.read_u64(vcpu.gpr(gpr::RSP) + 8), at::CODE + 6);
        assert_eq!(machine.read_u64(PAGE), 0x0102_0304_0506_0708);
    }
}
