//! What the registers of the first vCPU are when a kernel begins.

use hv::x86::{Attr, Seg, Segment, State, gpr};

use crate::boot::start;

/// The registers of the first vCPU.
pub(super) fn initial(start: &start::Start) -> State {
    let segment = |from: start::Segment| Segment {
        base: from.base,
        limit: from.limit,
        selector: from.selector,
        attr: Attr(from.attributes),
    };
    let mut state = State::at_reset();
    for seg in [Seg::Es, Seg::Ss, Seg::Ds, Seg::Fs, Seg::Gs] {
        state.segments[seg as usize] = segment(start.data);
    }
    state.segments[Seg::Cs as usize] = segment(start.code);
    state.segments[Seg::Tr as usize] = segment(start.task);
    state.gdtr.base = start.gdt.base;
    state.gdtr.limit = start.gdt.limit;
    state.gprs[usize::from(gpr::RAX)] = start.rax;
    state.gprs[usize::from(gpr::RBX)] = start.rbx;
    state.gprs[usize::from(gpr::RSI)] = start.rsi;
    state.gprs[usize::from(gpr::RSP)] = start.rsp;
    state.rip = start.rip;
    state.rflags = start.rflags;
    state.cr0 = start.cr0;
    state.cr3 = start.cr3;
    state.cr4 = start.cr4;
    state.efer = start.efer;
    state
}
