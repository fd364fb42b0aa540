//! A VMM on the `kvm-ioctls` crate: its documentation's example, with the same calls, by which a guest of real mode is run to its
//! end. It prints what it sees.

use std::io::Write;

use kvm_bindings::{KVM_MEM_LOG_DIRTY_PAGES, kvm_userspace_memory_region};
use kvm_ioctls::{Kvm, VcpuExit};

const SIZE: usize = 0x4000;
const START: u64 = 0x1000;

const CODE: &[u8] = &[
    0xba, 0xf8, 0x03, // mov dx, 0x3f8
    0x00, 0xd8, // add al, bl
    0x04, b'0', // add al, '0'
    0xee, // out dx, al
    0xec, // in al, dx
    0xc6, 0x06, 0x00, 0x80, 0x00, // mov byte [0x8000], 0
    0x8a, 0x16, 0x00, 0x80, // mov dl, [0x8000]
    0xf4, // hlt
];

/// Runs the guest, and prints each exit.
pub fn run() {
    let kvm = Kvm::new().expect("there is a KVM");
    let vm = kvm.create_vm().expect("a VM");
    let kind = libc::MAP_ANONYMOUS | libc::MAP_SHARED | libc::MAP_NORESERVE;
    let access = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a new mapping, at a place that the kernel chooses.
    let memory = unsafe { libc::mmap(std::ptr::null_mut(), SIZE, access, kind, -1, 0) };
    assert_ne!(memory, libc::MAP_FAILED);
    let region = kvm_userspace_memory_region {
        slot: 0,
        guest_phys_addr: START,
        memory_size: SIZE as u64,
        userspace_addr: memory as u64,
        flags: KVM_MEM_LOG_DIRTY_PAGES,
    };
    // SAFETY: it stays mapped until this process ends.
    unsafe { vm.set_user_memory_region(region) }.expect("memory");
    // SAFETY: it was just mapped, and no guest runs yet.
    let mut bytes = unsafe { std::slice::from_raw_parts_mut(memory.cast::<u8>(), SIZE) };
    bytes.write_all(CODE).expect("there is room");
    let mut vcpu = vm.create_vcpu(0).expect("a vCPU");
    let mut sregs = vcpu.get_sregs().expect("special registers");
    (sregs.cs.base, sregs.cs.selector) = (0, 0);
    vcpu.set_sregs(&sregs).expect("special registers");
    let mut regs = vcpu.get_regs().expect("registers");
    (regs.rip, regs.rax, regs.rbx, regs.rflags) = (START, 2, 3, 2);
    vcpu.set_regs(&regs).expect("registers");
    loop {
        match vcpu.run().expect("it runs") {
            VcpuExit::IoIn(port, data) => println!("in {port:#x} {:#x}", data[0]),
            VcpuExit::IoOut(port, data) => println!("out {port:#x} {:#x}", data[0]),
            VcpuExit::MmioRead(address, data) => println!("read {address:#x} {}", data.len()),
            VcpuExit::MmioWrite(address, data) => {
                println!("write {address:#x} {}", data.len());
                let log = vm.get_dirty_log(0, SIZE).expect("there is a log");
                let pages: u32 = log.into_iter().map(u64::count_ones).sum();
                println!("dirty {pages}");
            }
            VcpuExit::Hlt => break,
            other => panic!("{other:?}"),
        }
    }
    println!("halted");
}
