// What a VM and the device are told: numbers out of range, flags that are not known, lists that are too long.
#include "checks.h"

#include <sys/eventfd.h>

// See: virt/kvm/kvm_main.c, kvm_dev_ioctl.
static void the_device(void) {
    struct machine m = bare_machine(NO_CHIPS);
    EXPECT(ioctl(m.kvm, KVM_GET_API_VERSION, 1), EINVAL);
    EXPECT(ioctl(m.kvm, KVM_GET_VCPU_MMAP_SIZE, 1), EINVAL);
    // arch/x86/kvm/x86.c, kvm_arch_init_vm: there is one type.
    EXPECT(ioctl(m.kvm, KVM_CREATE_VM, 77), EINVAL);
    EXPECT(ioctl(m.kvm, KVM_CREATE_VM, -1l), EINVAL);
    EXPECT(ioctl(m.kvm, KVM_CREATE_VM, 1ul << 40), EINVAL);
    ENSURE(ioctl(m.kvm, KVM_CHECK_EXTENSION, -1l) == 0);
    ENSURE(ioctl(m.vm, KVM_CHECK_EXTENSION, 1ul << 40) == 0);
    end(&m);
}

static void lists_of_the_device(void) {
    struct machine m = bare_machine(NO_CHIPS);
    struct kvm_cpuid2 none = {0};
    EXPECT(ioctl(m.kvm, KVM_GET_SUPPORTED_CPUID, &none), E2BIG);
    EXPECT(ioctl(m.kvm, KVM_GET_EMULATED_CPUID, &none), E2BIG);
    struct {
        struct kvm_cpuid2 head;
        struct kvm_cpuid_entry2 entries[256];
    } *cpuid = calloc(1, sizeof *cpuid);
    // More than there may be is as many as there may be. See: arch/x86/kvm/cpuid.c, kvm_dev_ioctl_get_cpuid.
    cpuid->head.nent = -1;
    EXPECT(ioctl(m.kvm, KVM_GET_SUPPORTED_CPUID, cpuid), 0);
    ENSURE(cpuid->head.nent > 8 && cpuid->head.nent <= 256);
    cpuid->head.nent--;
    EXPECT(ioctl(m.kvm, KVM_GET_SUPPORTED_CPUID, cpuid), E2BIG);
    // The same, sanity_check_entries: of this one also the padding counts.
    memset(cpuid, 0, sizeof *cpuid);
    cpuid->head.nent = 256;
    EXPECT(ioctl(m.kvm, KVM_GET_EMULATED_CPUID, cpuid), 0);
    memset(cpuid, 0, sizeof *cpuid);
    cpuid->head.nent = 256;
    cpuid->entries[255].padding[2] = 1;
    EXPECT(ioctl(m.kvm, KVM_GET_EMULATED_CPUID, cpuid), EINVAL);
    // The list itself is where there is nothing.
    struct kvm_cpuid2 *cut = before_nothing(sizeof *cut);
    cut->nent = 256;
    EXPECT(ioctl(m.kvm, KVM_GET_SUPPORTED_CPUID, cut), EFAULT);
    EXPECT(ioctl(m.kvm, KVM_GET_EMULATED_CPUID, cut), EINVAL);
    struct kvm_msr_list *list = before_nothing(sizeof *list);
    list->nmsrs = 0;
    EXPECT(ioctl(m.kvm, KVM_GET_MSR_INDEX_LIST, list), E2BIG);
    ENSURE(list->nmsrs > 8 && list->nmsrs < 1000);
    EXPECT(ioctl(m.kvm, KVM_GET_MSR_INDEX_LIST, list), EFAULT);
    list->nmsrs = -1;
    EXPECT(ioctl(m.kvm, KVM_GET_MSR_INDEX_LIST, list), EFAULT);
    // x86.c, msr_io: fewer than MAX_IO_MSRS.
    struct kvm_msrs *msrs = before_nothing(sizeof *msrs);
    const uint32_t counts[] = {256, 257, 1u << 28, -1};
    for (size_t n = 0; n < sizeof counts / sizeof counts[0]; n++) {
        msrs->nmsrs = counts[n];
        EXPECT(ioctl(m.kvm, KVM_GET_MSRS, msrs), E2BIG);
    }
    msrs->nmsrs = 1;
    EXPECT(ioctl(m.kvm, KVM_GET_MSRS, msrs), EFAULT);
    free(cpuid);
    end(&m);
}

// See: virt/kvm/kvm_main.c, __kvm_set_memory_region.
static void memory_slots(void) {
    struct machine m = bare_machine(NO_CHIPS);
    const struct kvm_userspace_memory_region good = {.slot = 1,
                                                     .guest_phys_addr = 4 * MEMORY,
                                                     .memory_size = 16 * PAGE,
                                                     .userspace_addr = (uintptr_t)m.memory};
    struct kvm_userspace_memory_region r;
#define WITH(...) (r = good, __VA_ARGS__, ioctl(m.vm, KVM_SET_USER_MEMORY_REGION, &r))
    EXPECT(WITH(r.flags = 4), EINVAL);
    EXPECT(WITH(r.flags = 1u << 31), EINVAL);
    EXPECT(WITH(r.slot = 32764), EINVAL);
    EXPECT(WITH(r.slot = 0xffff), EINVAL);
    EXPECT(WITH(r.slot = 2 << 16), EINVAL);
    EXPECT(WITH(r.slot = -1), EINVAL);
    EXPECT(WITH(r.guest_phys_addr += 1), EINVAL);
    EXPECT(WITH(r.guest_phys_addr = -PAGE, r.memory_size = 2 * PAGE), EINVAL);
    // x86.c, kvm_arch_prepare_memory_region: no more address than a processor has.
    EXPECT(WITH(r.guest_phys_addr = 1ul << 52), EINVAL);
    EXPECT(WITH(r.guest_phys_addr = (1ul << 52) - 15 * PAGE), EINVAL);
    EXPECT(WITH(r.memory_size = 0), EINVAL);
    EXPECT(WITH(r.memory_size = 100), EINVAL);
    EXPECT(WITH(r.memory_size = -PAGE), EINVAL);
    // KVM_MEM_MAX_NR_PAGES: 2^31 - 1.
    EXPECT(WITH(r.userspace_addr = PAGE, r.memory_size = PAGE << 31), EINVAL);
    EXPECT(WITH(r.userspace_addr += 8), EINVAL);
    EXPECT(WITH(r.userspace_addr = -16 * PAGE), EINVAL);
    EXPECT(WITH(r.userspace_addr = 0xffff800000000000), EINVAL);
    EXPECT(WITH(r.userspace_addr = 1ul << 63), EINVAL);
    // Addresses have 57 bits at most.
    EXPECT(WITH(r.userspace_addr = (1ul << 56) - 16 * PAGE), EINVAL);
    EXPECT(WITH(r.guest_phys_addr = 0), EEXIST);
    EXPECT(WITH(r.guest_phys_addr = MEMORY - PAGE), EEXIST);
    EXPECT(WITH(r.slot = 1), 0);
    // It can be moved, and its log changed; nothing else.
    EXPECT(WITH(r.slot = 1), 0);
    EXPECT(WITH(r.flags = KVM_MEM_READONLY), EINVAL);
    EXPECT(WITH(r.memory_size += PAGE), EINVAL);
    EXPECT(WITH(r.userspace_addr += PAGE), EINVAL);
    EXPECT(WITH(r.guest_phys_addr = MEMORY - PAGE), EEXIST);
    EXPECT(WITH(r.guest_phys_addr = 8 * MEMORY), 0);
    EXPECT(WITH(r.guest_phys_addr = 8 * MEMORY, r.flags = KVM_MEM_LOG_DIRTY_PAGES), 0);
    EXPECT(WITH(r.memory_size = 0), 0);
    EXPECT(WITH(r.memory_size = 0), EINVAL);
    // Nothing has to be mapped there.
    EXPECT(WITH(r.userspace_addr = 0), 0);
#undef WITH
    struct kvm_userspace_memory_region2 two = {.slot = 2, .guest_phys_addr = 16 * MEMORY,
                                               .memory_size = PAGE,
                                               .userspace_addr = (uintptr_t)m.memory};
    // What there is none of here: KVM_MEM_GUEST_MEMFD.
    two.flags = 4;
    EXPECT_EITHER(ioctl(m.vm, KVM_SET_USER_MEMORY_REGION2, &two), EINVAL, ENOTTY);
    two.flags = 0;
    EXPECT_EITHER(ioctl(m.vm, KVM_SET_USER_MEMORY_REGION2, &two), 0, ENOTTY);
    end(&m);
}

// See: virt/kvm/kvm_main.c, kvm_get_dirty_log_protect, kvm_clear_dirty_log_protect.
static void dirty_logs(void) {
    struct machine m = bare_machine(NO_CHIPS);
    uint64_t bitmap[MEMORY / PAGE / 64 + 1] = {0};
    // 70 pages that are not logged at first.
    struct kvm_userspace_memory_region slot = {.slot = 5,
                                               .guest_phys_addr = 4 * MEMORY,
                                               .memory_size = 70 * PAGE,
                                               .userspace_addr = (uintptr_t)m.memory};
    EXPECT(ioctl(m.vm, KVM_SET_USER_MEMORY_REGION, &slot), 0);
    struct kvm_dirty_log log = {.slot = 0, .dirty_bitmap = bitmap};
    EXPECT(ioctl(m.vm, KVM_GET_DIRTY_LOG, &log), 0);
    log.dirty_bitmap = NULL;
    EXPECT(ioctl(m.vm, KVM_GET_DIRTY_LOG, &log), EFAULT);
    log.dirty_bitmap = before_nothing(MEMORY / PAGE / 8 - 1);
    EXPECT(ioctl(m.vm, KVM_GET_DIRTY_LOG, &log), EFAULT);
    log.dirty_bitmap = bitmap;
    const struct {
        uint32_t slot;
        int error;
    } slots[] = {{4, ENOENT}, {5, ENOENT}, {32764, EINVAL}, {0xffff, EINVAL}, {2 << 16, EINVAL}};
    for (size_t n = 0; n < sizeof slots / sizeof slots[0]; n++) {
        log.slot = slots[n].slot;
        EXPECT(ioctl(m.vm, KVM_GET_DIRTY_LOG, &log), slots[n].error);
        struct kvm_clear_dirty_log clear = {.slot = slots[n].slot, .dirty_bitmap = bitmap};
        EXPECT(ioctl(m.vm, KVM_CLEAR_DIRTY_LOG, &clear), slots[n].error);
    }
    slot.flags = KVM_MEM_LOG_DIRTY_PAGES;
    EXPECT(ioctl(m.vm, KVM_SET_USER_MEMORY_REGION, &slot), 0);
    // Of 70 pages.
    const struct {
        uint64_t first;
        uint32_t count;
        int error;
    } parts[] = {
        {0, 64, 0},        {64, 6, 0},          {0, 70, 0},         {0, 0, 0},
        {1, 63, EINVAL},   {0, 63, EINVAL},     {0, 71, EINVAL},    {64, 7, EINVAL},
        {64, 5, EINVAL},   {128, 0, EINVAL},    {0, -1, EINVAL},    {64, -64, EINVAL},
        {-64, 64, EINVAL}, {1ull << 63, 64, EINVAL}, {-64, 134, EINVAL},
    };
    for (size_t n = 0; n < sizeof parts / sizeof parts[0]; n++) {
        struct kvm_clear_dirty_log clear = {.slot = 5,
                                            .num_pages = parts[n].count,
                                            .first_page = parts[n].first,
                                            .dirty_bitmap = bitmap};
        EXPECT(ioctl(m.vm, KVM_CLEAR_DIRTY_LOG, &clear), parts[n].error);
        clear.dirty_bitmap = NULL;
        int error = parts[n].error ? parts[n].error : parts[n].count ? EFAULT : 0;
        EXPECT(ioctl(m.vm, KVM_CLEAR_DIRTY_LOG, &clear), error);
    }
    end(&m);
}

// See: virt/kvm/kvm_main.c, kvm_vm_ioctl_enable_cap_generic; arch/x86/kvm/x86.c, kvm_vm_ioctl_enable_cap.
static void capabilities_of_a_vm(void) {
    struct machine m = bare_machine(NO_CHIPS);
    const struct {
        uint32_t cap;
        uint64_t value;
        int error;
    } values[] = {
        // KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2
        {168, 0, 0},
        {168, 1, 0},
        {168, 3, 0},
        {168, 2, EINVAL},
        {168, 4, EINVAL},
        {168, 1ul << 32, EINVAL},
        {168, -1ul, EINVAL},
        {KVM_CAP_SPLIT_IRQCHIP, 4097, EINVAL},
        {KVM_CAP_SPLIT_IRQCHIP, -1ul, EINVAL},
        {KVM_CAP_X86_USER_SPACE_MSR, 8, EINVAL},
        {KVM_CAP_X86_USER_SPACE_MSR, 1ul << 32, EINVAL},
        {KVM_CAP_X86_USER_SPACE_MSR, 7, 0},
        {KVM_CAP_MAX_VCPU_ID, -1ul, EINVAL},
        {KVM_CAP_MAX_VCPU_ID, 1ul << 32, EINVAL},
        {KVM_CAP_MAX_VCPU_ID, 2, 0},
        {KVM_CAP_MAX_VCPU_ID, 2, 0},
        {KVM_CAP_MAX_VCPU_ID, 1, EINVAL},
        {KVM_CAP_MAX_VCPU_ID, 3, EINVAL},
        {KVM_CAP_EXCEPTION_PAYLOAD, -1ul, 0},
        {KVM_CAP_X86_TRIPLE_FAULT_EVENT, -1ul, 0},
        {KVM_CAP_MSR_PLATFORM_INFO, -1ul, 0},
        {KVM_CAP_SPLIT_IRQCHIP, 4096, 0},
        {KVM_CAP_SPLIT_IRQCHIP, 24, EEXIST},
    };
    for (size_t n = 0; n < sizeof values / sizeof values[0]; n++) {
        char what[64];
        snprintf(what, sizeof what, "capability %u, %#lx", values[n].cap, values[n].value);
        int result = enable_cap(m.vm, values[n].cap, 0, values[n].value);
        expect(__FILE_NAME__, __LINE__, what, result, values[n].error);
        for (int bit = 0; bit < 32; bit += 31)
            EXPECT(enable_cap(m.vm, values[n].cap, 1u << bit, 0), EINVAL);
    }
    // What is there without being asked for, what is a vCPU's, and what is no capability at all.
    const uint32_t others[] = {KVM_CAP_IRQCHIP, KVM_CAP_HLT, KVM_CAP_USER_MEMORY,
                               KVM_CAP_ENFORCE_PV_FEATURE_CPUID, KVM_CAP_HYPERV_SYNIC, 5, 999,
                               1u << 31, -1};
    for (size_t n = 0; n < sizeof others / sizeof others[0]; n++)
        EXPECT(enable_cap(m.vm, others[n], 0, 0), EINVAL);
    end(&m);
}

static void capabilities_of_a_vcpu(void) {
    struct machine m = machine(NO_CHIPS);
    EXPECT(enable_cap(m.vcpu, KVM_CAP_ENFORCE_PV_FEATURE_CPUID, 0, 1), 0);
    EXPECT(enable_cap(m.vcpu, KVM_CAP_ENFORCE_PV_FEATURE_CPUID, 1, 1), EINVAL);
    const uint32_t others[] = {KVM_CAP_SPLIT_IRQCHIP, KVM_CAP_EXCEPTION_PAYLOAD,
                               KVM_CAP_MAX_VCPU_ID, 168, KVM_CAP_HYPERV_SYNIC, 0, 5, 999, -1};
    for (size_t n = 0; n < sizeof others / sizeof others[0]; n++)
        EXPECT(enable_cap(m.vcpu, others[n], 0, 0), EINVAL);
    end(&m);
}

struct routing {
    struct kvm_irq_routing head;
    struct kvm_irq_routing_entry entries[4097];
};

static struct kvm_irq_routing_entry pin(uint32_t gsi, uint32_t chip, uint32_t pin) {
    struct kvm_irq_routing_entry entry = {.gsi = gsi, .type = KVM_IRQ_ROUTING_IRQCHIP};
    entry.u.irqchip.irqchip = chip, entry.u.irqchip.pin = pin;
    return entry;
}

static struct kvm_irq_routing_entry msi(uint32_t gsi) {
    struct kvm_irq_routing_entry entry = {.gsi = gsi, .type = KVM_IRQ_ROUTING_MSI};
    entry.u.msi.address_lo = 0xfee00000;
    return entry;
}

static int set_routes(int vm, struct routing *routing, uint32_t count,
                      struct kvm_irq_routing_entry one, struct kvm_irq_routing_entry other) {
    routing->head.nr = count, routing->head.flags = 0;
    routing->entries[0] = one, routing->entries[1] = other;
    return ioctl(vm, KVM_SET_GSI_ROUTING, routing);
}

// See: virt/kvm/irqchip.c, kvm_set_irq_routing; arch/x86/kvm/irq_comm.c, kvm_set_routing_entry.
static void routes(void) {
    struct machine m = bare_machine(ALL_CHIPS), split = bare_machine(SPLIT_CHIPS),
                   none = bare_machine(NO_CHIPS);
    struct routing *r = calloc(1, sizeof *r);
    EXPECT(set_routes(none.vm, r, 0, msi(0), msi(0)), EINVAL);
    EXPECT(set_routes(split.vm, r, 1, pin(0, 2, 0), msi(0)), EINVAL);
    EXPECT(set_routes(split.vm, r, 1, msi(0), msi(0)), 0);
    EXPECT(set_routes(m.vm, r, 0, msi(0), msi(0)), 0);
    EXPECT(set_routes(m.vm, r, 2, pin(0, 0, 0), pin(0, 2, 2)), 0);
    EXPECT(set_routes(m.vm, r, 2, msi(4095), msi(23)), 0);
    // A GSI has a pin of each chip at most, or one message.
    EXPECT(set_routes(m.vm, r, 2, pin(3, 2, 1), pin(3, 2, 2)), EINVAL);
    EXPECT(set_routes(m.vm, r, 2, msi(3), msi(3)), EINVAL);
    EXPECT(set_routes(m.vm, r, 2, msi(3), pin(3, 2, 1)), EINVAL);
    EXPECT(set_routes(m.vm, r, 2, pin(3, 2, 1), msi(3)), EINVAL);
    EXPECT(set_routes(m.vm, r, 1, msi(4096), msi(0)), EINVAL);
    EXPECT(set_routes(m.vm, r, 1, msi(-1), msi(0)), EINVAL);
    EXPECT(set_routes(m.vm, r, 1, pin(0, 0, 8), msi(0)), EINVAL);
    EXPECT(set_routes(m.vm, r, 1, pin(0, 1, 8), msi(0)), EINVAL);
    EXPECT(set_routes(m.vm, r, 1, pin(0, 2, 24), msi(0)), EINVAL);
    EXPECT(set_routes(m.vm, r, 1, pin(0, 2, -1), msi(0)), EINVAL);
    EXPECT(set_routes(m.vm, r, 1, pin(0, 3, 0), msi(0)), EINVAL);
    EXPECT(set_routes(m.vm, r, 1, pin(0, -1, 0), msi(0)), EINVAL);
    struct kvm_irq_routing_entry odd = msi(0);
    odd.flags = 2;
    EXPECT(set_routes(m.vm, r, 1, odd, msi(1)), EINVAL);
    // KVM_MSI_VALID_DEVID
    odd.flags = 1;
    EXPECT(set_routes(m.vm, r, 1, odd, msi(1)), 0);
    odd = pin(0, 0, 0), odd.flags = 1;
    EXPECT(set_routes(m.vm, r, 1, odd, msi(1)), EINVAL);
    // Not KVM_IRQ_ROUTING_S390_ADAPTER, and none that there is.
    odd = msi(0), odd.type = 3;
    EXPECT(set_routes(m.vm, r, 1, odd, msi(1)), EINVAL);
    odd.type = 0;
    EXPECT(set_routes(m.vm, r, 1, odd, msi(1)), EINVAL);
    odd.type = -1;
    EXPECT(set_routes(m.vm, r, 1, odd, msi(1)), EINVAL);
    EXPECT(set_routes(m.vm, r, 4097, msi(0), msi(1)), EINVAL);
    EXPECT(set_routes(m.vm, r, -1, msi(0), msi(1)), EINVAL);
    r->head.nr = 1, r->head.flags = 1;
    EXPECT(ioctl(m.vm, KVM_SET_GSI_ROUTING, r), EINVAL);
    for (uint32_t n = 0; n < 4096; n++)
        r->entries[n] = msi(n);
    r->head.nr = 4096, r->head.flags = 0;
    EXPECT(ioctl(m.vm, KVM_SET_GSI_ROUTING, r), 0);
    struct kvm_irq_routing *cut = before_nothing(sizeof *cut);
    cut->nr = 1, cut->flags = 0;
    EXPECT(ioctl(m.vm, KVM_SET_GSI_ROUTING, cut), EFAULT);
    free(r);
    end(&m), end(&split), end(&none);
}

// See: virt/kvm/kvm_main.c; virt/kvm/irqchip.c, kvm_send_userspace_msi.
static void interrupts_of_a_vm(void) {
    struct machine m = machine(ALL_CHIPS), none = bare_machine(NO_CHIPS);
    struct kvm_irq_level level = {.irq = 1 << 30, .level = -1};
    EXPECT(ioctl(none.vm, KVM_IRQ_LINE, &level), ENXIO);
    EXPECT(ioctl(none.vm, KVM_IRQ_LINE_STATUS, &level), ENXIO);
    // A line that leads nowhere is nobody's.
    EXPECT(ioctl(m.vm, KVM_IRQ_LINE, &level), 0);
    EXPECT(ioctl(m.vm, KVM_IRQ_LINE_STATUS, &level), 0);
    ENSURE(level.status == -1);
    struct kvm_msi message = {.address_lo = 0xfee00000, .data = 0x40};
    EXPECT(ioctl(none.vm, KVM_SIGNAL_MSI, &message), EINVAL);
    message.flags = 2;
    EXPECT(ioctl(m.vm, KVM_SIGNAL_MSI, &message), EINVAL);
    message.flags = 1u << 31;
    EXPECT(ioctl(m.vm, KVM_SIGNAL_MSI, &message), EINVAL);
    end(&m), end(&none);
}

// See: virt/kvm/eventfd.c, kvm_irqfd, kvm_ioeventfd.
static void eventfds(void) {
    struct machine m = bare_machine(ALL_CHIPS), split = bare_machine(SPLIT_CHIPS),
                   none = bare_machine(NO_CHIPS);
    int event = eventfd(0, 0), file = open("/dev/null", O_RDONLY), closed = dup(event);
    close(closed);
    struct kvm_irqfd f;
#define IRQFD(vm, ...) (f = (struct kvm_irqfd){__VA_ARGS__}, ioctl(vm, KVM_IRQFD, &f))
    EXPECT(IRQFD(none.vm, .fd = event, .gsi = 5), EINVAL);
    EXPECT(IRQFD(split.vm, .fd = event, .gsi = 5, .flags = 2, .resamplefd = event), EINVAL);
    EXPECT(IRQFD(m.vm, .fd = event, .gsi = 5, .flags = 4), EINVAL);
    EXPECT(IRQFD(m.vm, .fd = event, .gsi = 5, .flags = 1u << 31), EINVAL);
    EXPECT(IRQFD(m.vm, .fd = -1, .gsi = 5), EBADF);
    EXPECT(IRQFD(m.vm, .fd = closed, .gsi = 5), EBADF);
    EXPECT(IRQFD(m.vm, .fd = file, .gsi = 5), EINVAL);
    EXPECT(IRQFD(m.vm, .fd = m.vm, .gsi = 5), EINVAL);
    EXPECT(IRQFD(m.vm, .fd = m.kvm, .gsi = 5), EINVAL);
    EXPECT(IRQFD(m.vm, .fd = event, .gsi = 5, .flags = 2, .resamplefd = -1), EBADF);
    EXPECT(IRQFD(m.vm, .fd = event, .gsi = 5, .flags = 2, .resamplefd = file), EINVAL);
    EXPECT(IRQFD(m.vm, .fd = event, .gsi = 5), 0);
    EXPECT(IRQFD(m.vm, .fd = event, .gsi = 5), EBUSY);
    EXPECT(IRQFD(m.vm, .fd = event, .gsi = 6), EBUSY);
    // One that is not there is not there afterwards either.
    EXPECT(IRQFD(m.vm, .fd = event, .gsi = 6, .flags = 1), 0);
    EXPECT(IRQFD(m.vm, .fd = event, .gsi = 6), EBUSY);
    EXPECT(IRQFD(m.vm, .fd = event, .gsi = 5, .flags = 1), 0);
    EXPECT(IRQFD(m.vm, .fd = event, .gsi = 5, .flags = 1), 0);
    EXPECT(IRQFD(m.vm, .fd = -1, .gsi = 5, .flags = 1), EBADF);
    EXPECT(IRQFD(m.vm, .fd = file, .gsi = 5, .flags = 1), EINVAL);
    // No chip is needed to take one away.
    EXPECT(IRQFD(none.vm, .fd = event, .gsi = 5, .flags = 1), 0);
#undef IRQFD
    struct kvm_ioeventfd e;
#define IOEVENTFD(...)                                                                             \
    (e = (struct kvm_ioeventfd){.fd = event, .addr = 0x100, .len = 4},                            \
     __VA_ARGS__, ioctl(m.vm, KVM_IOEVENTFD, &e))
    const uint32_t DATAMATCH = 1, PIO = 2, DEASSIGN = 4;
    EXPECT(IOEVENTFD(e.len = 3), EINVAL);
    EXPECT(IOEVENTFD(e.len = 16), EINVAL);
    EXPECT(IOEVENTFD(e.len = -1), EINVAL);
    EXPECT(IOEVENTFD(e.flags = 1u << 31), EINVAL);
    EXPECT(IOEVENTFD(e.addr = -2), EINVAL);
    EXPECT(IOEVENTFD(e.len = 0, e.flags = DATAMATCH), EINVAL);
    EXPECT(IOEVENTFD(e.fd = -1), EBADF);
    EXPECT(IOEVENTFD(e.fd = closed), EBADF);
    EXPECT(IOEVENTFD(e.fd = file), EINVAL);
    EXPECT(IOEVENTFD(e.fd = m.vm), EINVAL);
    EXPECT(IOEVENTFD(e.flags = DEASSIGN), ENOENT);
    EXPECT(IOEVENTFD(e.flags = PIO), 0);
    EXPECT(IOEVENTFD(e.flags = 0), 0);
    EXPECT(IOEVENTFD(e.flags = 0), EEXIST);
    EXPECT(IOEVENTFD(e.flags = DATAMATCH), EEXIST);
    EXPECT(IOEVENTFD(e.len = 0), EEXIST);
    EXPECT(IOEVENTFD(e.len = 8, e.flags = DATAMATCH), 0);
    EXPECT(IOEVENTFD(e.flags = DEASSIGN | DATAMATCH), ENOENT);
    EXPECT(IOEVENTFD(e.flags = DEASSIGN, e.addr = 0x101), ENOENT);
    // Lengths and flags that are not known are of none that is there.
    EXPECT(IOEVENTFD(e.flags = DEASSIGN, e.len = 3), ENOENT);
    EXPECT(IOEVENTFD(e.flags = DEASSIGN, e.fd = -1, e.len = 3), EBADF);
    EXPECT(IOEVENTFD(e.flags = DEASSIGN, e.fd = file), EINVAL);
    EXPECT(IOEVENTFD(e.flags = DEASSIGN | PIO), 0);
    EXPECT(IOEVENTFD(e.flags = DEASSIGN), 0);
    EXPECT(IOEVENTFD(e.flags = DEASSIGN), ENOENT);
#undef IOEVENTFD
    close(event), close(file);
    end(&m), end(&split), end(&none);
}

// See: virt/kvm/coalesced_mmio.c; virt/kvm/kvm_main.c, kvm_io_bus_register_dev.
static void zones_of_writes_that_wait(void) {
    struct machine m = bare_machine(NO_CHIPS);
    struct kvm_coalesced_mmio_zone zone = {.addr = 0x1000000, .size = 16, .pio = 2};
    EXPECT(ioctl(m.vm, KVM_REGISTER_COALESCED_MMIO, &zone), EINVAL);
    EXPECT(ioctl(m.vm, KVM_UNREGISTER_COALESCED_MMIO, &zone), EINVAL);
    zone.pio = 0;
    EXPECT(ioctl(m.vm, KVM_UNREGISTER_COALESCED_MMIO, &zone), 0);
    EXPECT(ioctl(m.vm, KVM_REGISTER_COALESCED_MMIO, &zone), 0);
    EXPECT(ioctl(m.vm, KVM_REGISTER_COALESCED_MMIO, &zone), 0);
    zone.addr = -8, zone.size = -1;
    EXPECT(ioctl(m.vm, KVM_REGISTER_COALESCED_MMIO, &zone), 0);
    EXPECT(ioctl(m.vm, KVM_UNREGISTER_COALESCED_MMIO, &zone), 0);
    int count = 0;
    zone.addr = 0x2000000, zone.size = 4;
    while (count < 5000 && ioctl(m.vm, KVM_REGISTER_COALESCED_MMIO, &zone) == 0)
        count++, zone.addr += 4;
    ENSURE(count >= 100 && count < 5000 && errno == ENOSPC);
    end(&m);
}

// See: arch/x86/kvm/x86.c, kvm_vm_ioctl_set_msr_filter, kvm_add_msr_filter.
static void filters_of_registers(void) {
    struct machine m = bare_machine(NO_CHIPS);
    uint8_t bitmap[0x600] = {0};
    struct kvm_msr_filter f;
#define WITH(...)                                                                                  \
    (memset(&f, 0, sizeof f), f.ranges[15].nmsrs = 8, f.ranges[15].flags = 3,                      \
     f.ranges[15].bitmap = bitmap, __VA_ARGS__, ioctl(m.vm, KVM_X86_SET_MSR_FILTER, &f))
    EXPECT(WITH(f.flags = 0), 0);
    EXPECT(WITH(f.flags = 1), 0);
    EXPECT(WITH(f.flags = 2), EINVAL);
    EXPECT(WITH(f.flags = 1u << 31), EINVAL);
    EXPECT(WITH(f.flags = 1, f.ranges[15].nmsrs = 0), EINVAL);
    EXPECT(WITH(f.ranges[15].flags = 0), EINVAL);
    EXPECT(WITH(f.ranges[15].flags = 4), EINVAL);
    EXPECT(WITH(f.ranges[15].flags = 1u << 31), EINVAL);
    EXPECT(WITH(f.ranges[15].nmsrs = 0x600 * 8), 0);
    EXPECT(WITH(f.ranges[15].nmsrs = 0x600 * 8 + 1), EINVAL);
    EXPECT(WITH(f.ranges[15].nmsrs = -1), EINVAL);
    EXPECT(WITH(f.ranges[15].base = -1), 0);
    EXPECT(WITH(f.ranges[15].bitmap = NULL), EFAULT);
    EXPECT(WITH(f.ranges[15].bitmap = before_nothing(1)), EFAULT);
    EXPECT(WITH(f.ranges[15].bitmap = before_nothing(8)), 0);
#undef WITH
    memset(&f, 0, sizeof f);
    EXPECT(ioctl(m.vm, KVM_X86_SET_MSR_FILTER, &f), 0);
    end(&m);
}

static void single_values(void) {
    struct machine m = bare_machine(NO_CHIPS);
    EXPECT(ioctl(m.vm, KVM_SET_TSS_ADDR, 0xffffe000), EINVAL);
    EXPECT(ioctl(m.vm, KVM_SET_TSS_ADDR, -1l), EINVAL);
    EXPECT(ioctl(m.vm, KVM_SET_TSS_ADDR, 0xfffbd000), 0);
    EXPECT(ioctl(m.vm, KVM_SET_NR_MMU_PAGES, 63), EINVAL);
    EXPECT(ioctl(m.vm, KVM_SET_NR_MMU_PAGES, 0), EINVAL);
    EXPECT(ioctl(m.vm, KVM_SET_NR_MMU_PAGES, 64), 0);
    struct kvm_clock_data clock = {.flags = 1};
    EXPECT(ioctl(m.vm, KVM_SET_CLOCK, &clock), EINVAL);
    clock.flags = 1u << 31;
    EXPECT(ioctl(m.vm, KVM_SET_CLOCK, &clock), EINVAL);
    // KVM_CLOCK_TSC_STABLE, KVM_CLOCK_REALTIME, KVM_CLOCK_HOST_TSC
    clock.flags = 2 | 4 | 8, clock.clock = -1, clock.realtime = -1;
    EXPECT(ioctl(m.vm, KVM_SET_CLOCK, &clock), 0);
    end(&m);
}

const struct check VALUES[] = {
    {"the_device", the_device},
    {"lists_of_the_device", lists_of_the_device},
    {"memory_slots", memory_slots},
    {"dirty_logs", dirty_logs},
    {"capabilities_of_a_vm", capabilities_of_a_vm},
    {"capabilities_of_a_vcpu", capabilities_of_a_vcpu},
    {"routes", routes},
    {"interrupts_of_a_vm", interrupts_of_a_vm},
    {"eventfds", eventfds},
    {"zones_of_writes_that_wait", zones_of_writes_that_wait},
    {"filters_of_registers", filters_of_registers},
    {"single_values", single_values},
    {0},
};
