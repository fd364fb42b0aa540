// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
// What an exit costs on a device with KVM's interface, to compare two of them: a VMM that does nothing besides, and guests that do
// one thing again and again. Prints a line for each: what it is, a tab, and the nanoseconds of one.
//
// Usage: exits DEVICE

#include "machine.h"

#include <fcntl.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

// Guest code is at CODE; FRESH is memory for pages to be touched one by one. What is written to END ends a guest, what is written to EVENT signals
// an event.
enum { LOW = 1 << 20, CODE = 0x1000, FRESH = 16 << 20, PAGE = 4096, TSS = 0xfffbd000, END = 0xf4, EVENT = 0x81 };

// How often a guest does its thing before the clock is read, and between two readings.
enum { BEFORE = 200, TIMES = 4000 };

struct guest {
    const char *name;
    // Flat 32-bit code that does one thing. ESI is the loop's, EDI is FRESH at first.
    unsigned char code[8];
    size_t size;
    // The memory at FRESH was touched by the host.
    int touched;
};

static const struct guest guests[] = {
    {"CPUID", {0x31, 0xc0, 0x0f, 0xa2}, 4, 0},
    // The processor says where the next instruction is: nobody has to look at this one to find that out, as at CPUID where there is no NRIPS.
    {"a write to a port, in the kernel", {0xe6, EVENT}, 2, 0},
    {"a write to a port, to user space", {0xe6, 0x80}, 2, 0},
    {"a read from a port, to user space", {0xe4, 0x80}, 2, 0},
    {"a write to a device, to user space", {0xa3, 0x00, 0x00, 0x00, 0xd0}, 5, 0},
    {"a page that the host has", {0x88, 0x07, 0x81, 0xc7, 0x00, 0x10, 0x00, 0x00}, 8, 1},
    {"a page that the host has not", {0x88, 0x07, 0x81, 0xc7, 0x00, 0x10, 0x00, 0x00}, 8, 0},
};

// In small pages.
static void *memory(size_t size, int touched) {
    char *start = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (start == MAP_FAILED) checked(-1, "mmap");
    checked(madvise(start, size, MADV_NOHUGEPAGE), "madvise");
    if (touched) memset(start, 1, size);
    return start;
}

static void add(int vm, unsigned slot, uint64_t gpa, size_t size, void *start) {
    struct kvm_userspace_memory_region region = {
        .slot = slot, .guest_phys_addr = gpa, .memory_size = size, .userspace_addr = (uintptr_t)start};
    checked(ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region), "KVM_SET_USER_MEMORY_REGION");
}

static unsigned char *put(unsigned char *at, const void *bytes, size_t size) {
    memcpy(at, bytes, size);
    return at + size;
}

// A loop of `times`, and a write to END.
static unsigned char *loop(unsigned char *at, const struct guest *guest, uint32_t times) {
    *at++ = 0xbe; // mov esi, times
    at = put(at, &times, 4);
    unsigned char *again = at;
    at = put(at, guest->code, guest->size);
    *at++ = 0x4e; // dec esi
    *at++ = 0x75; // jnz again
    at++;
    at[-1] = (unsigned char)(again - at);
    return put(at, (unsigned char[]){0xe6, END}, 2);
}

// Runs the guest until it writes to END.
static void run(int vcpu, struct kvm_run *run) {
    for (;;) {
        checked(ioctl(vcpu, KVM_RUN, 0), "KVM_RUN");
        if (run->exit_reason == KVM_EXIT_IO) {
            if (run->io.port == END) return;
            if (run->io.direction == KVM_EXIT_IO_IN) ((char *)run)[run->io.data_offset] = 1;
        } else if (run->exit_reason != KVM_EXIT_MMIO) {
            fprintf(stderr, "unexpected exit %u\n", run->exit_reason);
            exit(1);
        }
    }
}

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1e9 + time.tv_nsec;
}

static int signalled_by(int vm, uint16_t port) {
    int event = checked(eventfd(0, EFD_NONBLOCK), "eventfd");
    struct kvm_ioeventfd told = {.addr = port, .len = 1, .fd = event, .flags = KVM_IOEVENTFD_FLAG_PIO};
    checked(ioctl(vm, KVM_IOEVENTFD, &told), "KVM_IOEVENTFD");
    return event;
}

static double measure(int kvm, const struct guest *guest) {
    int vm = checked(ioctl(kvm, KVM_CREATE_VM, 0), "KVM_CREATE_VM");
    checked(ioctl(vm, KVM_SET_TSS_ADDR, TSS), "KVM_SET_TSS_ADDR");
    checked(ioctl(vm, KVM_CREATE_IRQCHIP, 0), "KVM_CREATE_IRQCHIP");
    int event = signalled_by(vm, EVENT);
    unsigned char *low = memory(LOW, 1);
    add(vm, 0, 0, LOW, low);
    size_t size = (size_t)(BEFORE + TIMES) * PAGE;
    void *fresh = memory(size, guest->touched);
    add(vm, 1, FRESH, size, fresh);
    loop(loop(low + CODE, guest, BEFORE), guest, TIMES);
    int vcpu = checked(ioctl(vm, KVM_CREATE_VCPU, 0), "KVM_CREATE_VCPU");
    size_t length = checked(ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0), "KVM_GET_VCPU_MMAP_SIZE");
    struct kvm_run *shared = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
    if (shared == MAP_FAILED) checked(-1, "mmap");
    set_registers(vcpu, CODE, FRESH);
    run(vcpu, shared);
    double start = now();
    run(vcpu, shared);
    double one = (now() - start) / TIMES;
    munmap(shared, length);
    close(vcpu);
    close(vm);
    uint64_t signals = 0;
    if (guest->code[1] == EVENT && (read(event, &signals, sizeof signals) < 0 || signals != BEFORE + TIMES)) {
        fprintf(stderr, "%s: %llu signals\n", guest->name, (unsigned long long)signals);
        exit(1);
    }
    close(event);
    munmap(fresh, size);
    munmap(low, LOW);
    return one;
}

int main(int count, char **arguments) {
    if (count != 2) return 2;
    int kvm = checked(open(arguments[1], O_RDWR), arguments[1]);
    for (size_t n = 0; n < sizeof(guests) / sizeof(*guests); n++)
        printf("%s\t%.0f\n", guests[n].name, measure(kvm, &guests[n]));
    return 0;
}
