// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
// What the programs here have in common: errors, and a vCPU in protected mode.

#include <linux/kvm.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>

static long checked(long result, const char *what) {
    if (result >= 0) return result;
    perror(what);
    exit(1);
}

// Protected mode with flat segments, and no paging.
static void set_registers(int vcpu, uint64_t rip, uint64_t rdi) {
    struct kvm_sregs system;
    checked(ioctl(vcpu, KVM_GET_SREGS, &system), "KVM_GET_SREGS");
    struct kvm_segment flat = {.limit = ~0u, .selector = 0x10, .type = 3, .present = 1, .db = 1, .s = 1, .g = 1};
    system.ds = system.es = system.fs = system.gs = system.ss = flat;
    flat.type = 11;
    flat.selector = 8;
    system.cs = flat;
    system.cr0 |= 1;
    checked(ioctl(vcpu, KVM_SET_SREGS, &system), "KVM_SET_SREGS");
    struct kvm_regs registers = {.rip = rip, .rdi = rdi, .rflags = 2};
    checked(ioctl(vcpu, KVM_SET_REGS, &registers), "KVM_SET_REGS");
}
