// Calls in the wrong order: what is chosen twice, too late, or before what it needs.
#include "checks.h"

// See: arch/x86/kvm/x86.c, kvm_arch_vm_ioctl.
static void chips_are_chosen_once_and_before_vcpus(void) {
    struct machine m = bare_machine(NO_CHIPS);
    struct kvm_pit_config pit = {0};
    EXPECT(ioctl(m.vm, KVM_CREATE_IRQCHIP, 0), 0);
    EXPECT(ioctl(m.vm, KVM_CREATE_IRQCHIP, 0), EEXIST);
    EXPECT(enable_cap(m.vm, KVM_CAP_SPLIT_IRQCHIP, 0, 24), EEXIST);
    EXPECT(ioctl(m.vm, KVM_CREATE_PIT2, &pit), 0);
    EXPECT(ioctl(m.vm, KVM_CREATE_PIT2, &pit), EEXIST);
    end(&m);
    m = bare_machine(SPLIT_CHIPS);
    EXPECT(ioctl(m.vm, KVM_CREATE_IRQCHIP, 0), EEXIST);
    // From Linux 6.17 on there is no 8254 without an 8259.
    EXPECT_EITHER(ioctl(m.vm, KVM_CREATE_PIT2, &pit), ENOENT, 0);
    end(&m);
    m = machine(NO_CHIPS);
    EXPECT(ioctl(m.vm, KVM_CREATE_IRQCHIP, 0), EINVAL);
    EXPECT(enable_cap(m.vm, KVM_CAP_SPLIT_IRQCHIP, 0, 24), EEXIST);
    end(&m);
}

// The argument is read before it is seen that there is no chip.
static void what_chips_that_are_not_there_answer(void) {
    struct machine m = machine(NO_CHIPS), split = machine(SPLIT_CHIPS);
    static uint8_t place[PAGE];
    const int vms[] = {m.vm, split.vm};
    const unsigned long calls[] = {KVM_GET_IRQCHIP, KVM_SET_IRQCHIP, KVM_SET_PIT2,
                                   KVM_REINJECT_CONTROL};
    for (size_t n = 0; n < 2; n++) {
        for (size_t k = 0; k < 4; k++) {
            EXPECT(ioctl(vms[n], calls[k], place), ENXIO);
            EXPECT(ioctl(vms[n], calls[k], 0), EFAULT);
        }
        EXPECT(ioctl(vms[n], KVM_GET_PIT2, place), ENXIO);
        EXPECT(ioctl(vms[n], KVM_GET_PIT2, 0), ENXIO);
    }
    EXPECT(ioctl(m.vcpu, KVM_GET_LAPIC, place), EINVAL);
    EXPECT(ioctl(m.vcpu, KVM_SET_LAPIC, place), EINVAL);
    EXPECT(ioctl(m.vcpu, KVM_GET_LAPIC, 0), EINVAL);
    EXPECT(ioctl(m.vcpu, KVM_SET_LAPIC, 0), EINVAL);
    EXPECT(ioctl(split.vcpu, KVM_GET_LAPIC, place), 0);
    EXPECT(ioctl(split.vcpu, KVM_SET_LAPIC, place), 0);
    end(&m), end(&split);
}

// What is no group of VFIO's is not added, and was not. See: virt/kvm/kvm_main.c, kvm_ioctl_create_device; virt/kvm/vfio.c.
static void a_machine_has_one_device_for_vfio(void) {
    struct machine m = machine(NO_CHIPS);
    struct kvm_create_device device = {.type = KVM_DEV_TYPE_FSL_MPIC_20};
    EXPECT(ioctl(m.vm, KVM_CREATE_DEVICE, &device), ENODEV);
    device = (struct kvm_create_device){.type = KVM_DEV_TYPE_VFIO, .flags = KVM_CREATE_DEVICE_TEST};
    EXPECT(ioctl(m.vm, KVM_CREATE_DEVICE, &device), 0);
    device.flags = 0;
    EXPECT(ioctl(m.vm, KVM_CREATE_DEVICE, &device), 0);
    ENSURE(fcntl(device.fd, F_GETFD) == FD_CLOEXEC);
    EXPECT(ioctl(m.vm, KVM_CREATE_DEVICE, &device), EBUSY);
    int32_t group = open("/dev/null", O_RDWR);
    struct kvm_device_attr add = {.group = KVM_DEV_VFIO_GROUP,
                                  .attr = KVM_DEV_VFIO_GROUP_ADD,
                                  .addr = (uintptr_t)&group};
    struct kvm_device_attr remove = add, nowhere = add, unknown = add;
    remove.attr = KVM_DEV_VFIO_GROUP_DEL, nowhere.addr = 0, unknown.attr = 77;
    EXPECT(ioctl(device.fd, KVM_HAS_DEVICE_ATTR, &add), 0);
    EXPECT(ioctl(device.fd, KVM_HAS_DEVICE_ATTR, &unknown), ENXIO);
    EXPECT(ioctl(device.fd, KVM_HAS_DEVICE_ATTR, 0), EFAULT);
    EXPECT(ioctl(device.fd, KVM_GET_DEVICE_ATTR, &add), EPERM);
    EXPECT(ioctl(device.fd, KVM_SET_DEVICE_ATTR, &add), EINVAL);
    EXPECT(ioctl(device.fd, KVM_SET_DEVICE_ATTR, &remove), ENOENT);
    EXPECT(ioctl(device.fd, KVM_SET_DEVICE_ATTR, &nowhere), EFAULT);
    EXPECT(ioctl(device.fd, KVM_SET_DEVICE_ATTR, &unknown), ENXIO);
    close(group);
    EXPECT(ioctl(device.fd, KVM_SET_DEVICE_ATTR, &add), EBADF);
    EXPECT(ioctl(device.fd, KVM_SET_DEVICE_ATTR, &remove), EBADF);
    const int unmapped[] = {m.kvm, m.vm, device.fd};
    for (size_t n = 0; n < 3; n++) {
        ENSURE(mmap(NULL, PAGE, PROT_READ, MAP_SHARED, unmapped[n], 0) == MAP_FAILED);
        ENSURE(errno == ENODEV);
    }
    // It is the machine's, not the descriptor's. And that has the machine be there.
    int again = dup(device.fd);
    close(device.fd);
    EXPECT(ioctl(m.vm, KVM_CREATE_DEVICE, &device), EBUSY);
    end(&m);
    EXPECT(ioctl(again, KVM_HAS_DEVICE_ATTR, &add), 0);
    close(again);
}

// See: virt/kvm/kvm_main.c, kvm_vm_ioctl_create_vcpu; arch/x86/kvm/x86.c, kvm_arch_vcpu_precreate.
static void numbers_of_vcpus(void) {
    struct machine m = bare_machine(NO_CHIPS);
    int limit = ioctl(m.vm, KVM_CHECK_EXTENSION, KVM_CAP_MAX_VCPU_ID);
    EXPECT(ioctl(m.vm, KVM_CREATE_VCPU, limit), EINVAL);
    EXPECT(ioctl(m.vm, KVM_CREATE_VCPU, 0x7fffffff), EINVAL);
    EXPECT(ioctl(m.vm, KVM_CREATE_VCPU, 0xffffffff), EINVAL);
    EXPECT(ioctl(m.vm, KVM_CREATE_VCPU, -1l), EINVAL);
    EXPECT(ioctl(m.vm, KVM_SET_BOOT_CPU_ID, 3), 0);
    EXPECT(ioctl(m.vm, KVM_CREATE_VCPU, limit - 1), 0);
    EXPECT(ioctl(m.vm, KVM_CREATE_VCPU, limit - 1), EEXIST);
    EXPECT(ioctl(m.vm, KVM_CREATE_VCPU, 3), 0);
    EXPECT(ioctl(m.vm, KVM_SET_BOOT_CPU_ID, 3), EBUSY);
    // With a vCPU the limit is what it is: kvm_arch_vcpu_precreate.
    EXPECT(enable_cap(m.vm, KVM_CAP_MAX_VCPU_ID, 0, 2), EINVAL);
    EXPECT(enable_cap(m.vm, KVM_CAP_MAX_VCPU_ID, 0, 0), EINVAL);
    EXPECT(enable_cap(m.vm, KVM_CAP_MAX_VCPU_ID, 0, limit), 0);
    // Before Linux 6.11 it was the lower half that counted.
    EXPECT_EITHER(ioctl(m.vm, KVM_CREATE_VCPU, 1ul << 32 | 7), EINVAL, 0);
    uint64_t address = 0xfffbc000;
    EXPECT(ioctl(m.vm, KVM_SET_IDENTITY_MAP_ADDR, &address), EINVAL);
    EXPECT(ioctl(m.vm, KVM_SET_IDENTITY_MAP_ADDR, 0), EINVAL);
    end(&m);
    m = bare_machine(NO_CHIPS);
    EXPECT(enable_cap(m.vm, KVM_CAP_MAX_VCPU_ID, 0, 2), 0);
    EXPECT(ioctl(m.vm, KVM_CREATE_VCPU, 2), EINVAL);
    EXPECT(ioctl(m.vm, KVM_CREATE_VCPU, 1), 0);
    end(&m);
}

// out 0x80, al; and again
static const uint8_t OUT[] = {0xe6, 0x80, 0xeb, 0xfc};

// See: arch/x86/kvm/cpuid.c, kvm_set_cpuid.
static void cpuid_stays_after_a_run(void) {
    struct machine m = machine(NO_CHIPS);
    static struct {
        struct kvm_cpuid2 head;
        struct kvm_cpuid_entry2 entries[2];
    } cpuid = {.head.nent = 1, .entries = {{.function = 2, .eax = 5}, {.function = 4}}};
    EXPECT(ioctl(m.vcpu, KVM_SET_CPUID2, &cpuid), 0);
    cpuid.entries[0].eax = 6;
    EXPECT(ioctl(m.vcpu, KVM_SET_CPUID2, &cpuid), 0);
    real_mode(&m, OUT, sizeof OUT);
    EXPECT(ioctl(m.vcpu, KVM_RUN, 0), 0);
    ENSURE(m.run->exit_reason == KVM_EXIT_IO);
    EXPECT(ioctl(m.vcpu, KVM_SET_CPUID2, &cpuid), 0);
    cpuid.entries[0].eax = 5;
    EXPECT(ioctl(m.vcpu, KVM_SET_CPUID2, &cpuid), EINVAL);
    cpuid.entries[0].eax = 6, cpuid.head.nent = 2;
    EXPECT(ioctl(m.vcpu, KVM_SET_CPUID2, &cpuid), EINVAL);
    cpuid.head.nent = 0;
    EXPECT(ioctl(m.vcpu, KVM_SET_CPUID2, &cpuid), EINVAL);
    end(&m);
}

// What a run takes from the memory that is shared. See: arch/x86/kvm/x86.c, kvm_arch_vcpu_ioctl_run.
static void runs(void) {
    struct machine m = machine(NO_CHIPS);
    real_mode(&m, OUT, sizeof OUT);
    EXPECT(ioctl(m.vcpu, KVM_RUN, 1), EINVAL);
    EXPECT(ioctl(m.vcpu, KVM_RUN, -1l), EINVAL);
    m.run->kvm_valid_regs = 8;
    EXPECT(ioctl(m.vcpu, KVM_RUN, 0), EINVAL);
    m.run->kvm_valid_regs = 1ull << 63;
    EXPECT(ioctl(m.vcpu, KVM_RUN, 0), EINVAL);
    m.run->kvm_valid_regs = 0, m.run->kvm_dirty_regs = 1ull << 63;
    EXPECT(ioctl(m.vcpu, KVM_RUN, 0), EINVAL);
    m.run->kvm_dirty_regs = 0, m.run->cr8 = 16;
    EXPECT(ioctl(m.vcpu, KVM_RUN, 0), EINVAL);
    m.run->cr8 = -1;
    EXPECT(ioctl(m.vcpu, KVM_RUN, 0), EINVAL);
    m.run->cr8 = 0;
    EXPECT(ioctl(m.vcpu, KVM_RUN, 0), 0);
    ENSURE(m.run->exit_reason == KVM_EXIT_IO && m.run->io.port == 0x80);
    // Registers that cannot be: none of a run with them.
    m.run->kvm_dirty_regs = 2;
    memset(&m.run->s.regs.sregs, 0xff, sizeof m.run->s.regs.sregs);
    EXPECT(ioctl(m.vcpu, KVM_RUN, 0), EINVAL);
    // What a program writes into the memory that it shares harms nobody.
    memset(m.run, 0xff, PAGE);
    m.run->immediate_exit = 0, m.run->kvm_valid_regs = m.run->kvm_dirty_regs = m.run->cr8 = 0;
    m.run->request_interrupt_window = 0;
    EXPECT(ioctl(m.vcpu, KVM_RUN, 0), 0);
    ENSURE(m.run->exit_reason == KVM_EXIT_IO);
    m.run->immediate_exit = 0xff;
    EXPECT(ioctl(m.vcpu, KVM_RUN, 0), EINTR);
    end(&m);
}

const struct check ORDER[] = {
    {"a_machine_has_one_device_for_vfio", a_machine_has_one_device_for_vfio},
    {"chips_are_chosen_once_and_before_vcpus", chips_are_chosen_once_and_before_vcpus},
    {"what_chips_that_are_not_there_answer", what_chips_that_are_not_there_answer},
    {"numbers_of_vcpus", numbers_of_vcpus},
    {"cpuid_stays_after_a_run", cpuid_stays_after_a_run},
    {"runs", runs},
    {0},
};
