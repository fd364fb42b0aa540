// The local APIC's task priority, as a VMM follows it.
#include "vmm.h"

// Where the guest finds the local APIC, and a word of the VMM's.
#define APIC 0x600000
#define WORD 0x3000

static uint32_t task_priority(struct vcpu *v) {
    struct kvm_lapic_state state = {0};
    if (ioctl(v->fd, KVM_GET_LAPIC, &state) != 0)
        return -1;
    uint32_t priority;
    memcpy(&priority, state.regs + 0x80, sizeof priority);
    return priority;
}

void a_task_priority_is_told_and_kept(void) {
    struct machine m = machine();
    CHECK(ioctl(m.vm, KVM_CHECK_EXTENSION, KVM_CAP_VAPIC) == 1);
    CHECK(ioctl(m.vm, KVM_CREATE_IRQCHIP, 0) == 0);
    struct vcpu v = vcpu(&m, 0);
    static const uint8_t code[] = {
        0xc7, 0x04, 0x25, 0x80, 0x00, 0x60, 0x00, 0x41, 0, 0, 0, // mov dword [APIC + 0x80], 0x41
        0x8b, 0x1c, 0x25, 0x80, 0x00, 0x60, 0x00,                // mov ebx, [APIC + 0x80]
        0xc6, 0x04, 0x25, 0x00, 0x30, 0x00, 0x00, 0x70,          // mov byte [WORD], 0x70
        0xe6, 0x80,                                              // out 0x80, al
        0xeb, 0xfe,                                              // jmp to itself
    };
    CHECK(long_mode(&m, &v, CODE, code, sizeof code) == 0);
    *(uint64_t *)(m.memory + 0x102000 + 8 * (APIC >> 21)) = 0xfee00000 | 0x83;
    struct kvm_tpr_access_ctl report = {.enabled = 1};
    CHECK(ioctl(v.fd, KVM_TPR_ACCESS_REPORTING, &report) == 0);

    CHECK(ioctl(v.fd, KVM_RUN, 0) == 0 && v.run->exit_reason == KVM_EXIT_TPR_ACCESS);
    CHECK(v.run->tpr_access.rip == CODE && v.run->tpr_access.is_write == 1);
    CHECK(task_priority(&v) == 0x41 && v.run->cr8 == 4);
    CHECK(ioctl(v.fd, KVM_RUN, 0) == 0 && v.run->exit_reason == KVM_EXIT_TPR_ACCESS);
    CHECK(v.run->tpr_access.rip == CODE + 11 && v.run->tpr_access.is_write == 0);
    struct kvm_regs regs;
    CHECK(ioctl(v.fd, KVM_GET_REGS, &regs) == 0 && regs.rbx == 0x41 && regs.rip == CODE + 18);

    struct kvm_vapic_addr word = {.vapic_addr = MEMORY};
    REFUSED(ioctl(v.fd, KVM_SET_VAPIC_ADDR, &word), EINVAL);
    word.vapic_addr = WORD;
    CHECK(ioctl(v.fd, KVM_SET_VAPIC_ADDR, &word) == 0);
    CHECK(ioctl(v.fd, KVM_RUN, 0) == 0 && v.run->exit_reason == KVM_EXIT_IO);
    CHECK(m.memory[WORD] == 0x70 && task_priority(&v) == 0x70);
    end_vcpu(&m, &v);
    end(&m);
}
