// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
// What an interrupt from one vCPU to another costs on a device with KVM's interface, to compare two of them: both halt, and wake each other
// in turns, by their x2APICs. Prints what it is, a tab, and the nanoseconds of one interrupt: sender and receiver.
//
// Usage: ipi DEVICE

#include "machine.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

// Where the guest has its code, that of the handler, its tables and its stacks. What is written to END ends a vCPU's part.
enum { LOW = 1 << 20, CODE = 0x1000, HANDLER = 0x3000, GDT = 0x4000, IDT = 0x5000, STACK = 0x8000, END = 0xf4 };

enum { VECTOR = 0x20, SPURIOUS = 0xf0, X2APIC = 1 << 10, TSS = 0xfffbd000 };

// How often before the clock is read, and between two readings. Not more often: QEMU's software CPU forgets at times, on the way into a
// guest, that no interrupt may come between STI and HLT, and a vCPU that halts behind its interrupt waits for ever.
enum { BEFORE = 20, TIMES = 400 };

static unsigned char *low;
static int kvm;

static unsigned char *put(unsigned char *at, const void *bytes, size_t size) {
    memcpy(at, bytes, size);
    return at + size;
}
#define PUT(at, ...) put(at, (unsigned char[]){__VA_ARGS__}, sizeof(unsigned char[]){__VA_ARGS__})

// WRMSR of an x2APIC's register.
static unsigned char *write_apic(unsigned char *at, unsigned char number, uint32_t value) {
    at = PUT(at, 0xb9, number, 0x08, 0x00, 0x00, 0xb8); // mov ecx, 0x800 + number; mov eax, value
    at = put(at, &value, 4);
    return PUT(at, 0x0f, 0x30);
}

static unsigned char *send_to(unsigned char *at, unsigned char other) {
    at = PUT(at, 0xba, other, 0, 0, 0); // mov edx, other
    return write_apic(at, 0x30, 1 << 14 | VECTOR);
}

// sti; hlt; cli
static unsigned char *wait(unsigned char *at) { return PUT(at, 0xfb, 0xf4, 0xfa); }

// `times` interrupts to the other vCPU and from it, and a write to END.
static unsigned char *loop(unsigned char *at, int id, uint32_t times) {
    *at++ = 0xbe; // mov esi, times
    at = put(at, &times, 4);
    unsigned char *again = at;
    at = id == 0 ? wait(send_to(at, 1)) : send_to(wait(at), 0);
    at = PUT(at, 0x4e, 0x75, 0); // dec esi; jnz again
    at[-1] = (unsigned char)(again - at);
    return PUT(at, 0xe6, END);
}

// The handler ends the interrupt.
static void put_handler(void) {
    unsigned char *at = PUT(low + HANDLER, 0x50, 0x51, 0x52, 0x31, 0xd2); // push eax, ecx, edx; xor edx, edx
    at = write_apic(at, 0x0b, 0);
    PUT(at, 0x5a, 0x59, 0x58, 0xcf); // pop edx, ecx, eax; iret
    const uint64_t gdt[] = {0, 0x00cf9b000000ffff, 0x00cf93000000ffff};
    memcpy(low + GDT, gdt, sizeof gdt);
    const uint16_t gate[] = {HANDLER, 8, 0x8e00, 0};
    memcpy(low + IDT + VECTOR * sizeof gate, gate, sizeof gate);
}

struct vcpu {
    int fd, id;
    struct kvm_run *run;
};

static struct vcpu make(int vm, int id) {
    struct vcpu vcpu = {checked(ioctl(vm, KVM_CREATE_VCPU, id), "KVM_CREATE_VCPU"), id, NULL};
    size_t length = checked(ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0), "KVM_GET_VCPU_MMAP_SIZE");
    vcpu.run = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu.fd, 0);
    if (vcpu.run == MAP_FAILED) checked(-1, "mmap");
    static struct {
        struct kvm_cpuid2 head;
        struct kvm_cpuid_entry2 entries[256];
    } cpuid;
    cpuid.head.nent = 256;
    checked(ioctl(kvm, KVM_GET_SUPPORTED_CPUID, &cpuid), "KVM_GET_SUPPORTED_CPUID");
    checked(ioctl(vcpu.fd, KVM_SET_CPUID2, &cpuid), "KVM_SET_CPUID2");
    struct kvm_mp_state runs = {.mp_state = KVM_MP_STATE_RUNNABLE};
    checked(ioctl(vcpu.fd, KVM_SET_MP_STATE, &runs), "KVM_SET_MP_STATE");

    unsigned char *at = low + CODE + 0x400 * id;
    set_registers(vcpu.fd, at - low, 0);
    struct kvm_regs registers = {.rip = at - low, .rsp = STACK + 0x1000 * (id + 1), .rflags = 2};
    checked(ioctl(vcpu.fd, KVM_SET_REGS, &registers), "KVM_SET_REGS");
    struct kvm_sregs system;
    checked(ioctl(vcpu.fd, KVM_GET_SREGS, &system), "KVM_GET_SREGS");
    system.gdt = (struct kvm_dtable){.base = GDT, .limit = 23};
    system.idt = (struct kvm_dtable){.base = IDT, .limit = 0x7ff};
    system.apic_base |= X2APIC;
    checked(ioctl(vcpu.fd, KVM_SET_SREGS, &system), "KVM_SET_SREGS");
    // Before the other one sends anything.
    struct kvm_lapic_state lapic;
    checked(ioctl(vcpu.fd, KVM_GET_LAPIC, &lapic), "KVM_GET_LAPIC");
    const uint32_t enabled = 0x1ff;
    memcpy(lapic.regs + SPURIOUS, &enabled, sizeof enabled);
    checked(ioctl(vcpu.fd, KVM_SET_LAPIC, &lapic), "KVM_SET_LAPIC");
    loop(loop(at, id, BEFORE), id, TIMES);
    return vcpu;
}

// Runs a vCPU until it writes to END.
static void run(const struct vcpu *vcpu) {
    checked(ioctl(vcpu->fd, KVM_RUN, 0), "KVM_RUN");
    if (vcpu->run->exit_reason == KVM_EXIT_IO && vcpu->run->io.port == END) return;
    fprintf(stderr, "unexpected exit %u\n", vcpu->run->exit_reason);
    exit(1);
}

static void *both_parts(void *vcpu) {
    run(vcpu);
    run(vcpu);
    return NULL;
}

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1e9 + time.tv_nsec;
}

int main(int count, char **arguments) {
    if (count != 2) return 2;
    kvm = checked(open(arguments[1], O_RDWR), arguments[1]);
    int vm = checked(ioctl(kvm, KVM_CREATE_VM, 0), "KVM_CREATE_VM");
    checked(ioctl(vm, KVM_SET_TSS_ADDR, TSS), "KVM_SET_TSS_ADDR");
    checked(ioctl(vm, KVM_CREATE_IRQCHIP, 0), "KVM_CREATE_IRQCHIP");
    low = mmap(NULL, LOW, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (low == MAP_FAILED) checked(-1, "mmap");
    struct kvm_userspace_memory_region region = {.memory_size = LOW, .userspace_addr = (uintptr_t)low};
    checked(ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region), "KVM_SET_USER_MEMORY_REGION");
    put_handler();
    struct vcpu vcpus[] = {make(vm, 0), make(vm, 1)};
    pthread_t other;
    errno = pthread_create(&other, NULL, both_parts, &vcpus[1]);
    checked(errno ? -1 : 0, "pthread_create");
    run(&vcpus[0]);
    double start = now();
    run(&vcpus[0]);
    printf("an interrupt from a halted vCPU to another\t%.0f\n", (now() - start) / TIMES / 2);
    errno = pthread_join(other, NULL);
    checked(errno ? -1 : 0, "pthread_join");
    return 0;
}
