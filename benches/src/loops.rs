//! Guest instructions a second on small loops in 64-bit mode.

use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, bail};
use hv::in_process::InProcess;
use hv::x86::{Answer, Attr, Exit, Seg, State, cr0, cr4, efer, gpr};
use hv::{Hypervisor, Irqchip, MemoryFlags, Vcpu, Vm, VmConfig};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap, GuestRegionMmap, MmapRegion};

use crate::median;

const CODE: u64 = 0x1000;
const TABLES: u64 = 0x2000;
const DATA: u64 = 0x10_0000;
const MEMORY: usize = 4 << 20;

/// A loop: RCX counts its rounds down, and `out 0x80, al` ends it.
struct Loop {
    name: &'static str,
    code: &'static [u8],
    rounds: u64,
}

const LOOPS: [Loop; 3] = [
    Loop {
        name: "integer",
        // 1: add rax,rbx; xor rdx,rax; lea rbx,[rax+rdx*2]; shl rax,3; sub rdx,rsi; dec rcx; jnz 1b
        code: &[
            0x48, 0x01, 0xd8, 0x48, 0x31, 0xc2, 0x48, 0x8d, 0x1c, 0x50, 0x48, 0xc1, 0xe0, 0x03,
            0x48, 0x29, 0xf2, 0x48, 0xff, 0xc9, 0x75, 0xea, 0xe6, 0x80,
        ],
        rounds: 5_000_000,
    },
    Loop {
        name: "memory",
        // 1: mov rax,[rdi]; add [rdi+8],rax; mov [rdi+16],rax; add rax,[rdi+24]; dec rcx; jnz 1b
        code: &[
            0x48, 0x8b, 0x07, 0x48, 0x01, 0x47, 0x08, 0x48, 0x89, 0x47, 0x10, 0x48, 0x03, 0x47,
            0x18, 0x48, 0xff, 0xc9, 0x75, 0xec, 0xe6, 0x80,
        ],
        rounds: 5_000_000,
    },
    Loop {
        name: "call",
        // 1: call 2f; dec rcx; jnz 1b; out 0x80,al; 2: inc rax; ret
        code: &[
            0xe8, 0x07, 0x00, 0x00, 0x00, 0x48, 0xff, 0xc9, 0x75, 0xf6, 0xe6, 0x80, 0x48, 0xff,
            0xc0, 0xc3,
        ],
        rounds: 5_000_000,
    },
];

/// Prints a line a loop.
pub fn measure(rounds: usize) -> anyhow::Result<()> {
    for guest in &LOOPS {
        let runs = (0..rounds).map(|_| run(guest)).collect::<anyhow::Result<Vec<_>>>()?;
        println!(
            "loop {:8} {:7.1} M instructions/s (median of {rounds})",
            guest.name,
            median(runs)
        );
    }
    Ok(())
}

/// Runs one loop on a machine of its own; gives millions of instructions a second.
fn run(guest: &Loop) -> anyhow::Result<f64> {
    let vm = InProcess { counted: true, ..InProcess::default() }
        .create_vm(VmConfig { cpus: 1, irqchip: Irqchip::default() })?;
    let region = GuestRegionMmap::new(MmapRegion::new(MEMORY)?, GuestAddress(0));
    let region = Arc::new(region.context("a region of memory")?);
    vm.add_memory(Arc::clone(&region), MemoryFlags::default())?;
    let memory: GuestMemoryMmap = GuestMemoryMmap::from_arc_regions(vec![region])?;
    memory.write_slice(guest.code, GuestAddress(CODE))?;
    // One page of 2 MiB, mapped onto itself.
    for (level, entry) in [(0, TABLES + 0x1003), (1, TABLES + 0x2003), (2, 0x83)] {
        memory.write_obj(entry, GuestAddress(TABLES + level * 0x1000))?;
    }
    let mut vcpu = vm.create_vcpu(0)?;
    vcpu.set_state(&state(guest.rounds))?;
    let start = Instant::now();
    match vcpu.run(Answer::None)? {
        Exit::Out { port: 0x80, .. } => {}
        exit => bail!("the {} loop ended with {exit:?}", guest.name),
    }
    let seconds = start.elapsed().as_secs_f64();
    let counts = vcpu.counts().context("the engine counts no instructions")?;
    Ok(counts.instructions as f64 / seconds / 1e6)
}

fn state(rounds: u64) -> State {
    let mut state = State::at_reset();
    state.cr0 = cr0::PE | cr0::PG | cr0::ET | cr0::NE;
    state.cr3 = TABLES;
    state.cr4 = cr4::PAE;
    state.efer = efer::LME | efer::LMA;
    state.rip = CODE;
    state.segments[Seg::Cs as usize].attr = Attr(0xa9b);
    state.segments[Seg::Cs as usize].base = 0;
    for (register, value) in
        [(gpr::RCX, rounds), (gpr::RDI, DATA), (gpr::RSP, DATA), (gpr::RAX, 1), (gpr::RBX, 3)]
    {
        state.gprs[usize::from(register)] = value;
    }
    state
}
