// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
// The least that can be around KVM_RUN, to compare with: runs the kernel of benches/src/kvm/port_reads.rs until it writes
// to the debug exit's port. Its chips are in the kernel, as Unibody's and QEMU's are: an exit costs more with them than without.
//
// What the kernel prints on COM1 goes to stdout.
//
// Usage: bare KERNEL

#include "machine.h"

#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

// Where the kernel's first byte goes, and how far behind it the first instruction is: its Multiboot header says the same.
enum { RAM = 16 << 20, LOAD = 1 << 20, HEADER = 32, TSS = 0xfffbd000, COM1 = 0x3f8, END = 0xf4 };

int main(int count, char **arguments) {
    if (count != 2) return 2;
    int kvm = checked(open("/dev/kvm", O_RDWR), "/dev/kvm");
    int vm = checked(ioctl(kvm, KVM_CREATE_VM, 0), "KVM_CREATE_VM");
    checked(ioctl(vm, KVM_SET_TSS_ADDR, TSS), "KVM_SET_TSS_ADDR");
    checked(ioctl(vm, KVM_CREATE_IRQCHIP, 0), "KVM_CREATE_IRQCHIP");
    struct kvm_pit_config pit = {.flags = KVM_PIT_SPEAKER_DUMMY};
    checked(ioctl(vm, KVM_CREATE_PIT2, &pit), "KVM_CREATE_PIT2");
    char *ram = mmap(NULL, RAM, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (ram == MAP_FAILED) checked(-1, "mmap");
    struct kvm_userspace_memory_region slot = {.memory_size = RAM, .userspace_addr = (uintptr_t)ram};
    checked(ioctl(vm, KVM_SET_USER_MEMORY_REGION, &slot), "KVM_SET_USER_MEMORY_REGION");
    int kernel = checked(open(arguments[1], O_RDONLY), arguments[1]);
    checked(read(kernel, ram + LOAD, RAM - LOAD), arguments[1]);
    int vcpu = checked(ioctl(vm, KVM_CREATE_VCPU, 0), "KVM_CREATE_VCPU");
    size_t size = checked(ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0), "KVM_GET_VCPU_MMAP_SIZE");
    struct kvm_run *run = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
    if (run == MAP_FAILED) checked(-1, "mmap");
    set_registers(vcpu, LOAD + HEADER, 0);
    for (;;) {
        checked(ioctl(vcpu, KVM_RUN, 0), "KVM_RUN");
        if (run->exit_reason != KVM_EXIT_IO) {
            fprintf(stderr, "unexpected exit %u\n", run->exit_reason);
            return 1;
        }
        char *data = (char *)run + run->io.data_offset;
        if (run->io.direction == KVM_EXIT_IO_IN) memset(data, 0xff, run->io.size * run->io.count);
        else if (run->io.port == COM1) putchar(*data);
        else if (run->io.port == END) return 0;
    }
}
