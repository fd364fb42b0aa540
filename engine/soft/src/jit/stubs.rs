//! [`Stubs`]: the code that all translated code shares.
//!
//! - `enter`: from Rust into translated code, and back: a function `(vcpu, code) -> ending`;
//! - `leave`: from the end of a block to Rust;
//! - `dispatch`: from the end of a block to the next one, which the jump cache knows, or back to Rust;
//! - `meet`: from an indirect branch that leads to what it does not know, to Rust, which notes it and enters again there;
//! - `step`, `step_last`, `step_return`: call Rust to execute one instruction;
//! - `vectors`, `x87`: see [`super::vector_registers`], [`super::x87_registers`].

use super::assembler::{Address, Assembler, Opcode, condition, group};
use super::context::{self, KEPT};
use super::enter::ending;
use super::vector_registers::VectorStubs;
use super::x87_registers::X87Stubs;
use crate::jump_cache as jump;

const T0: u8 = 10;
const T1: u8 = 11;
const T2: u8 = 15;
const RDI: u8 = 7;
const RSI: u8 = 6;
const RAX: u8 = 0;
const RBX: u8 = 3;
const RSP: u8 = 4;
const RBP: u8 = 5;
/// The guest's registers that are in registers, and where: RSP is in R9.
const HOMES: [(u8, u8); 12] = [
    (0, 0),
    (1, 1),
    (2, 2),
    (3, 3),
    (4, 9),
    (5, 5),
    (6, 6),
    (7, 7),
    (8, 8),
    (12, 12),
    (13, 13),
    (14, 14),
];
/// What a function has to preserve: RBX, RBP, R12–R15.
const PUSHES: [u8; 10] = [0x53, 0x55, 0x41, 0x54, 0x41, 0x55, 0x41, 0x56, 0x41, 0x57];
const POPS: [u8; 10] = [0x41, 0x5f, 0x41, 0x5e, 0x41, 0x5d, 0x41, 0x5c, 0x5d, 0x5b];

/// Addresses of the stubs.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Stubs {
    pub enter: u64,
    /// To be jumped to with RIP in R10.
    pub dispatch: u64,
    /// The same, but leads to Rust.
    pub leave: u64,
    /// The same with RIP in its field.
    pub leave_from_rip: u64,
    /// The same as `dispatch` with RIP in its field.
    pub dispatch_from_rip: u64,
    /// To be called with the address of an `Op` in R10.
    pub step: u64,
    /// The same for an instruction that ends a block.
    pub step_last: u64,
    /// The same for a return to a program.
    pub step_return: u64,
    /// To be called with an address in R10 that the jump cache's first way at R11 does not have: whether it has it then is in
    /// ZF. T2 changes.
    pub second: u64,
    /// To be jumped to with the address of a site in R11, and that of the code that it leads to in R15: see [`super::sites`].
    pub meet: u64,
    pub vectors: VectorStubs,
    pub x87: X87Stubs,
}

impl Stubs {
    /// Assembles them for `base`.
    pub fn assemble(base: u64) -> (Self, Vec<u8>) {
        let mut code = Assembler::new(base);
        let mut stubs = Self::default();
        stubs.vectors.assemble_save(&mut code);
        stubs.x87.assemble_save(&mut code);
        let leave = leave(&mut code, &stubs);
        stubs.vectors.assemble_load(&mut code, leave.refused);
        stubs.x87.assemble_load(&mut code, leave.refused);
        stubs.enter = enter(&mut code);
        stubs.second = second(&mut code);
        stubs.leave = code.here();
        code.store(context::RIP, T0);
        code.jump(leave.nothing);
        stubs.leave_from_rip = leave.nothing;
        stubs.dispatch = code.here();
        code.store(context::RIP, T0);
        let known = code.here();
        dispatch(&mut code, stubs.second, leave.nothing);
        stubs.dispatch_from_rip = code.here();
        code.load(T0, context::RIP);
        code.jump(known);
        stubs.meet = meet(&mut code, &leave, &stubs);
        stubs.step = step(&mut code, context::STEP, &leave, &stubs);
        stubs.step_last = step(&mut code, context::STEP_LAST, &leave, &stubs);
        stubs.step_return = step(&mut code, context::STEP_RETURN, &leave, &stubs);
        (stubs, code.bytes().to_vec())
    }

    /// Saves all registers that are loaded; the general-purpose ones have been.
    fn save_if_loaded(&self, code: &mut Assembler) {
        self.vectors.save_if_loaded(code);
        self.x87.save_if_loaded(code);
    }
}

/// T1 changes.
fn save_registers(code: &mut Assembler) {
    for (guest, host) in HOMES {
        code.store(context::gpr(guest), host);
    }
    for (n, guest) in KEPT.into_iter().enumerate() {
        code.load(T1, context::kept(n));
        code.store(context::gpr(guest), T1);
    }
}

/// T0 changes.
fn load_registers(code: &mut Assembler) {
    for (n, guest) in KEPT.into_iter().enumerate() {
        code.load(T0, context::gpr(guest));
        code.store(context::kept(n), T0);
    }
    for (guest, host) in HOMES {
        code.load(host, context::gpr(guest));
    }
}

fn enter(code: &mut Assembler) -> u64 {
    let at = code.here();
    let place = |base, displacement| Address { base: Some(base), index: None, displacement };
    code.raw(&PUSHES);
    // What is called with this RSP finds it aligned.
    code.lea(true, RSP, place(RSP, -8));
    code.lea(true, RDI, place(RDI, -context::VCPU));
    let store = Opcode { wide: true, bytes: &[0x89], ..Opcode::default() };
    code.memory(store, RSP, place(RDI, context::HOST_STACK));
    code.copy(RSP, RDI);
    code.copy(T1, RSI);
    load_registers(code);
    // jmp r11.
    code.raw(&[0x41, 0xff, 0xe3]);
    at
}

/// Ways back to Rust.
struct Leave {
    /// The registers are still where translated code has them; nothing happened.
    nothing: u64,
    /// The registers are in their fields, and EAX says what happened.
    stopped: u64,
    /// The registers are still where translated code has them, which has called a stub: the interpreter
    /// is to go on at the `Op` in R10.
    refused: u64,
}

fn leave(code: &mut Assembler, stubs: &Stubs) -> Leave {
    let nothing = code.here();
    save_registers(code);
    stubs.save_if_loaded(code);
    // xor eax, eax.
    code.raw(&[0x31, 0xc0]);
    let stopped = code.here();
    code.load(RSP, context::HOST_STACK);
    // add rsp, 8.
    code.raw(&[0x48, 0x83, 0xc4, 0x08]);
    code.raw(&POPS);
    // ret.
    code.raw(&[0xc3]);
    code.stub(true);
    let refused = code.here();
    code.abandon_stub();
    code.store(context::STOPPED_AT, T0);
    code.store_value(context::ENDING, ending::REFUSED);
    save_registers(code);
    stubs.save_if_loaded(code);
    // mov eax, 1.
    code.raw(&[0xb8, 1, 0, 0, 0]);
    code.jump(stopped);
    Leave { nothing, stopped, refused }
}

fn meet(code: &mut Assembler, leave: &Leave, stubs: &Stubs) -> u64 {
    let at = code.here();
    code.store(context::SITE, T1);
    code.store(context::MET, T2);
    code.store_value(context::ENDING, ending::MET);
    save_registers(code);
    stubs.save_if_loaded(code);
    // mov eax, 1.
    code.raw(&[0xb8, 1, 0, 0, 0]);
    code.jump(leave.stopped);
    at
}

/// Finds the block at R10, as [`crate::blocks`] does.
fn dispatch(code: &mut Assembler, second: u64, leave: u64) {
    let at = |displacement| Address { base: Some(T1), index: None, displacement };
    let mut out = Vec::new();
    code.load(T1, context::POLLED);
    code.test_word(T1);
    out.push(code.jump_if(condition::NOT_EQUAL));
    // Each of the two kinds of level has its part.
    code.compare_byte(context::ITLB_CPL, 3);
    let user = code.jump_if(condition::EQUAL);
    find_jump(code, 0);
    let over = code.jump_ahead();
    code.bind(user);
    find_jump(code, 3);
    code.bind(over);
    let compare = Opcode { wide: true, bytes: &[0x39], ..Opcode::default() };
    code.memory(compare, T0, at(jump::RIP));
    let known = code.jump_if(condition::EQUAL);
    code.call(second);
    out.push(code.jump_if(condition::NOT_EQUAL));
    code.bind(known);
    // The key of the level, and the upper or the lower half: shr r10, 63; movzx r15d, byte [cpl];
    // lea r10, [r10 + r15 * 2]; mov r15, [polled]; mov r10d, [r15 + keys + r10 * 4].
    code.raw(&[0x49, 0xc1, 0xea, 0x3f]);
    code.load_zero_extended_byte(T2, context::ITLB_CPL);
    code.lea(true, T0, Address { base: Some(T0), index: Some((T2, 1)), displacement: 0 });
    let keys = Opcode { bytes: &[0x8b], ..Opcode::default() };
    code.load(T2, context::POLLED);
    let key = Address { base: Some(T2), index: Some((T0, 2)), displacement: context::KEYS };
    code.memory(keys, T0, key);
    code.memory(Opcode { wide: false, ..compare }, T0, at(jump::KEY));
    out.push(code.jump_if(condition::NOT_EQUAL));
    // jmp [r11 + code].
    code.memory(Opcode { bytes: &[0xff], ..Opcode::default() }, 4, at(jump::CODE));
    for jump in out {
        code.bind(jump);
    }
    code.jump(leave);
}

/// Looks whether the second way of the jump cache has the address in R10, which the first one at R11 has not: then it
/// becomes the first, and ZF is set. T2 changes.
fn second(code: &mut Assembler) -> u64 {
    code.stub(true);
    let start = code.here();
    let at = |displacement| Address { base: Some(T1), index: None, displacement };
    let load = Opcode { wide: true, bytes: &[0x8b], ..Opcode::default() };
    let store = Opcode { wide: true, bytes: &[0x89], ..Opcode::default() };
    let compare = Opcode { wide: true, bytes: &[0x39], ..Opcode::default() };
    code.memory(compare, T0, at(jump::SECOND + jump::RIP));
    let other = code.jump_if(condition::NOT_EQUAL);
    code.store(context::SAVED, RAX);
    for part in (0..jump::SECOND).step_by(8) {
        code.memory(load, RAX, at(part));
        code.memory(load, T2, at(jump::SECOND + part));
        code.memory(store, RAX, at(jump::SECOND + part));
        code.memory(store, T2, at(part));
    }
    code.load(RAX, context::SAVED);
    // cmp r10, [r11]: equal now.
    code.memory(compare, T0, at(jump::RIP));
    code.bind(other);
    code.end_stub();
    start
}

/// The first entry of the jump cache for the address in R10, at a privilege level, into R11. EFLAGS change.
pub(super) fn find_jump(code: &mut Assembler, cpl: u8) {
    if cpl == 3 {
        // mov r11d, r10d.
        code.raw(&[0x45, 0x89, 0xd3]);
        code.shift_left(T1, jump::SIZE_SHIFT + 1 - jump::GROUP_SHIFT);
        code.change(group::AND, T1, jump::USER_MASK);
    } else {
        // movzx r11d, r10w; shl r11d, size's and one more.
        code.raw(&[0x45, 0x0f, 0xb7, 0xda]);
        code.shift_left(T1, jump::SIZE_SHIFT + 1);
    }
    code.add_field(T1, context::jumps(cpl));
}

fn step(code: &mut Assembler, function: i32, leave: &Leave, stubs: &Stubs) -> u64 {
    code.stub(true);
    let at = code.here();
    save_registers(code);
    // The return address, into a register that a function preserves: mov rbx, [rsp].
    code.raw(&[0x48, 0x8b, 0x1c, 0x24]);
    code.abandon_stub();
    stubs.save_if_loaded(code);
    code.lea(true, RDI, code.place_of(context::VCPU));
    code.copy(RSI, T0);
    code.load(RAX, function);
    // On the thread's own stack.
    code.copy(RBP, RSP);
    code.load(RSP, context::HOST_STACK);
    // call rax; mov rsp, rbp; test eax, eax.
    code.raw(&[0xff, 0xd0]);
    code.copy(RSP, RBP);
    code.raw(&[0x85, 0xc0]);
    let stopped = code.jump_if(condition::NOT_EQUAL);
    code.copy(T1, RBX);
    load_registers(code);
    code.lea(true, RSP, code.place_of(-context::RED_ZONE));
    // push r11.
    code.raw(&[0x41, 0x53]);
    code.end_stub();
    code.bind(stopped);
    code.jump(leave.stopped);
    at
}
