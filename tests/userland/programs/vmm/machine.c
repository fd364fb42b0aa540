// Machines with one slot of memory, and where their vCPUs begin.
#include "vmm.h"

struct machine machine(void) {
    struct machine m = {.kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC)};
    m.vm = ioctl(m.kvm, KVM_CREATE_VM, 0);
    m.run_size = ioctl(m.kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
    m.memory = mmap(NULL, MEMORY, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    struct kvm_userspace_memory_region slot = {
        .slot = 0, .memory_size = MEMORY, .userspace_addr = (uintptr_t)m.memory};
    if (ioctl(m.vm, KVM_SET_USER_MEMORY_REGION, &slot) != 0)
        perror("KVM_SET_USER_MEMORY_REGION");
    return m;
}

struct vcpu vcpu(struct machine *m, int id) {
    struct vcpu v = {.fd = ioctl(m->vm, KVM_CREATE_VCPU, id)};
    v.run = mmap(NULL, m->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, v.fd, 0);
    return v;
}

void end(struct machine *m) {
    close(m->vm);
    close(m->kvm);
    munmap(m->memory, MEMORY);
}

void end_vcpu(struct machine *m, struct vcpu *v) {
    munmap(v->run, m->run_size);
    close(v->fd);
}

void real_mode(struct machine *m, struct vcpu *v, const void *code, size_t size) {
    struct kvm_sregs sregs;
    memcpy(m->memory + CODE, code, size);
    ioctl(v->fd, KVM_GET_SREGS, &sregs);
    sregs.cs.base = sregs.cs.selector = 0;
    ioctl(v->fd, KVM_SET_SREGS, &sregs);
    struct kvm_regs regs = {.rip = CODE, .rsp = 0x8000, .rflags = 2};
    ioctl(v->fd, KVM_SET_REGS, &regs);
}

int long_mode(struct machine *m, struct vcpu *v, uint64_t at, const void *code, size_t size) {
    const uint64_t tables = 0x100000;
    uint64_t *entries = (uint64_t *)(m->memory + tables);
    memset(entries, 0, 3 * 4096);
    entries[0] = (tables + 0x1000) | 3;
    entries[512] = (tables + 0x2000) | 3;
    for (uint64_t n = 0; n < 512; n++)
        entries[1024 + n] = n << 21 | 0x83;
    memcpy(m->memory + at, code, size);
    struct kvm_sregs sregs;
    if (ioctl(v->fd, KVM_GET_SREGS, &sregs) != 0)
        return -1;
    struct kvm_segment segment = {
        .limit = 0xffffffff, .selector = 8, .type = 11, .present = 1, .s = 1, .l = 1, .g = 1};
    sregs.cs = segment;
    segment.type = 3, segment.l = 0, segment.db = 1, segment.selector = 16;
    sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = segment;
    sregs.cr0 = 0x80000011;
    sregs.cr3 = tables;
    sregs.cr4 = 0x20;
    sregs.efer = 0x500;
    if (ioctl(v->fd, KVM_SET_SREGS, &sregs) != 0)
        return -1;
    struct kvm_regs regs = {.rip = at, .rsp = at + 0x800, .rflags = 2};
    return ioctl(v->fd, KVM_SET_REGS, &regs);
}

int all_cpuid(struct machine *m, struct vcpu *v) {
    struct {
        struct kvm_cpuid2 head;
        struct kvm_cpuid_entry2 entries[256];
    } cpuid = {.head.nent = 256};
    if (ioctl(m->kvm, KVM_GET_SUPPORTED_CPUID, &cpuid) != 0)
        return -1;
    return ioctl(v->fd, KVM_SET_CPUID2, &cpuid);
}
