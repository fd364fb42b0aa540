// A vCPU's state, and that of the chips, with what no processor and no chip has.
//
// What is refused has to leave all as it was; what is accepted may be anything, and the vCPU is run with some of it.
#include "checks.h"

static void general_and_system_registers(void) {
    struct machine m = machine(ALL_CHIPS);
    EXPECT(all_cpuid(m.kvm, m.vcpu), 0);
    struct kvm_sregs good, s, now;
    EXPECT(ioctl(m.vcpu, KVM_GET_SREGS, &good), 0);
#define WITH(...) (s = good, __VA_ARGS__, ioctl(m.vcpu, KVM_SET_SREGS, &s))
    // x86.c, kvm_is_valid_cr0, kvm_is_valid_sregs; CR0: PE 1, NW 29, CD 30, PG 31; CR4: PAE 5, PCIDE 17, SMXE 14.
    EXPECT(WITH(s.cr0 = 1ul << 32), EINVAL);
    EXPECT(WITH(s.cr0 = 1ul << 63), EINVAL);
    EXPECT(WITH(s.cr0 = 1ul << 31), EINVAL);
    EXPECT(WITH(s.cr0 = 1ul << 29), EINVAL);
    EXPECT(WITH(s.cr4 = 1ul << 63), EINVAL);
    EXPECT(WITH(s.cr4 = 1ul << 31), EINVAL);
    EXPECT(WITH(s.cr4 = 1ul << 15), EINVAL);
    EXPECT(WITH(s.cs.l = 1), EINVAL);
    EXPECT(WITH(s.efer = 0x400), EINVAL);
    // Paging and long mode: without LMA, without PAE, with a CR3 that is too long.
    EXPECT(WITH(s.cr0 = 0x80000001, s.cr4 = 0x20, s.efer = 0x100), EINVAL);
    EXPECT(WITH(s.cr0 = 0x80000001, s.cr4 = 0, s.efer = 0x500), EINVAL);
    EXPECT(WITH(s.cr0 = 0x80000001, s.cr4 = 0x20, s.efer = 0x500, s.cr3 = 1ul << 52), EINVAL);
    // x86.c, kvm_set_apic_base: reserved bits, and x2APIC without being on.
    EXPECT(WITH(s.apic_base |= 1), EINVAL);
    EXPECT(WITH(s.apic_base |= 1 << 9), EINVAL);
    EXPECT(WITH(s.apic_base |= 1ul << 62), EINVAL);
    EXPECT(WITH(s.apic_base = (s.apic_base & ~0x800ul) | 0x400), EINVAL);
    EXPECT(ioctl(m.vcpu, KVM_GET_SREGS, &now), 0);
    ENSURE(memcmp(&good, &now, sizeof now) == 0);
    // What is not looked at.
    EXPECT(WITH(s.cr8 = -1), 0);
    EXPECT(WITH(s.cs.base = -1, s.cs.limit = -1, s.ss.type = 0xff, s.tr.unusable = 0xff), 0);
    EXPECT(WITH(memset(&s.gdt, 0xff, sizeof s.gdt)), 0);
    EXPECT(WITH(memset(s.interrupt_bitmap, 0xff, sizeof s.interrupt_bitmap)), 0);
#undef WITH
    // x86.c, __set_sregs2: page-directory pointers count where PAE is without long mode.
    struct kvm_sregs2 two;
    EXPECT(ioctl(m.vcpu, KVM_SET_SREGS, &good), 0);
    EXPECT(ioctl(m.vcpu, KVM_GET_SREGS2, &two), 0);
    two.flags = 2;
    EXPECT(ioctl(m.vcpu, KVM_SET_SREGS2, &two), EINVAL);
    two.flags = 1;
    EXPECT(ioctl(m.vcpu, KVM_SET_SREGS2, &two), EINVAL);
    two.flags = 1ull << 63;
    EXPECT(ioctl(m.vcpu, KVM_SET_SREGS2, &two), EINVAL);
    // Any general register may be anything.
    struct kvm_regs regs;
    memset(&regs, 0xff, sizeof regs);
    EXPECT(ioctl(m.vcpu, KVM_SET_REGS, &regs), 0);
    end(&m);
}

// See: arch/x86/kernel/fpu/xstate.c, copy_uabi_to_xstate; arch/x86/kvm/x86.c, __kvm_set_xcr.
static void extended_registers(void) {
    struct machine m = machine(NO_CHIPS);
    static struct kvm_xsave good, x, now;
    EXPECT(all_cpuid(m.kvm, m.vcpu), 0);
    EXPECT(ioctl(m.vcpu, KVM_GET_XSAVE, &good), 0);
    // Words of 32 bits: MXCSR 6, XSTATE_BV 128 and 129, XCOMP_BV 130 and 131, reserved up to 143.
#define WITH(...) (x = good, __VA_ARGS__, ioctl(m.vcpu, KVM_SET_XSAVE, &x))
    EXPECT(WITH(x.region[128] |= 2, x.region[6] = 1 << 16), EINVAL);
    EXPECT(WITH(x.region[128] |= 1, x.region[6] = -1), EINVAL);
    // Of no component MXCSR is none either.
    EXPECT(WITH(x.region[6] = -1, x.region[128] = x.region[129] = 0), 0);
    EXPECT(ioctl(m.vcpu, KVM_SET_XSAVE, &good), 0);
    EXPECT(WITH(x.region[128] |= 1u << 31), EINVAL);
    EXPECT(WITH(x.region[129] |= 1u << 31), EINVAL);
    EXPECT(WITH(x.region[129] |= 1u << 30), EINVAL);
    for (int n = 130; n < 144; n++)
        EXPECT(WITH(x.region[n] = 1), EINVAL);
    EXPECT(WITH(x.region[131] = 1u << 31), EINVAL);
    EXPECT(ioctl(m.vcpu, KVM_GET_XSAVE, &now), 0);
    ENSURE(memcmp(&good, &now, sizeof now) == 0);
#undef WITH
    struct kvm_fpu fpu;
    memset(&fpu, 0xff, sizeof fpu);
    EXPECT(ioctl(m.vcpu, KVM_SET_FPU, &fpu), 0);
    const struct {
        uint32_t count, flags, number;
        uint64_t value;
        int error;
    } xcrs[] = {
        {1, 0, 0, 1, 0},           {1, 0, 0, 3, 0},           {1, 0, 0, 0, EINVAL},
        {1, 0, 0, 2, EINVAL},      {1, 0, 0, 5, EINVAL},      {1, 0, 0, 1ull << 63, EINVAL},
        {1, 0, 0, 9, EINVAL},      {1, 0, 0, -1, EINVAL},     {1, 1, 0, 1, EINVAL},
        {17, 0, 0, 1, EINVAL},     {-1, 0, 0, 1, EINVAL},     {0, 0, 0, 0, 0},
        {1, 1u << 31, 0, 1, EINVAL},
        // Others than XCR0 are passed over.
        {1, 0, 1, -1, 0},
    };
    for (size_t n = 0; n < sizeof xcrs / sizeof xcrs[0]; n++) {
        struct kvm_xcrs x = {.nr_xcrs = xcrs[n].count, .flags = xcrs[n].flags};
        x.xcrs[0].xcr = xcrs[n].number, x.xcrs[0].value = xcrs[n].value;
        char what[64];
        snprintf(what, sizeof what, "KVM_SET_XCRS, line %zu of the table", n);
        expect(__FILE_NAME__, __LINE__, what, ioctl(m.vcpu, KVM_SET_XCRS, &x), xcrs[n].error);
    }
    end(&m);
    // What CPUID does not tell is not there.
    m = machine(NO_CHIPS);
    struct kvm_xcrs three = {.nr_xcrs = 1, .xcrs = {{.value = 3}}};
    EXPECT(ioctl(m.vcpu, KVM_SET_XCRS, &three), EINVAL);
    end(&m);
}

// See: arch/x86/kvm/x86.c, kvm_vcpu_ioctl_x86_set_debugregs, kvm_dr6_valid; kvm_arch_vcpu_ioctl_set_guest_debug.
static void debug_registers(void) {
    struct machine m = machine(NO_CHIPS);
    struct kvm_debugregs good, d, now;
    EXPECT(ioctl(m.vcpu, KVM_GET_DEBUGREGS, &good), 0);
#define WITH(...) (d = good, __VA_ARGS__, ioctl(m.vcpu, KVM_SET_DEBUGREGS, &d))
    EXPECT(WITH(d.dr6 |= 1ull << 32), EINVAL);
    EXPECT(WITH(d.dr6 |= 1ull << 63), EINVAL);
    EXPECT(WITH(d.dr7 |= 1ull << 32), EINVAL);
    EXPECT(WITH(d.dr7 |= 1ull << 63), EINVAL);
    EXPECT(WITH(d.flags = 1), EINVAL);
    EXPECT(WITH(d.flags = 1ull << 63), EINVAL);
    EXPECT(ioctl(m.vcpu, KVM_GET_DEBUGREGS, &now), 0);
    ENSURE(memcmp(&good, &now, sizeof now) == 0);
    EXPECT(WITH(memset(d.reserved, 0xff, sizeof d.reserved)), 0);
    EXPECT(WITH(d.dr6 = d.dr7 = 0xffffffff, d.db[0] = d.db[3] = -1), 0);
#undef WITH
    struct kvm_guest_debug debug = {.control = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_INJECT_DB};
    EXPECT(ioctl(m.vcpu, KVM_SET_GUEST_DEBUG, &debug), 0);
    EXPECT(ioctl(m.vcpu, KVM_SET_GUEST_DEBUG, &debug), EBUSY);
    debug.control = 0;
    EXPECT(ioctl(m.vcpu, KVM_SET_GUEST_DEBUG, &debug), 0);
    end(&m);
}

// See: arch/x86/kvm/x86.c, kvm_vcpu_ioctl_x86_set_vcpu_events, kvm_arch_vcpu_ioctl_set_mpstate, kvm_vcpu_ioctl_interrupt.
static void events(void) {
    struct machine m = machine(ALL_CHIPS), none = machine(NO_CHIPS), split = machine(SPLIT_CHIPS);
    struct kvm_vcpu_events good, e;
    EXPECT(ioctl(m.vcpu, KVM_GET_VCPU_EVENTS, &good), 0);
#define WITH(...) (e = good, __VA_ARGS__, ioctl(m.vcpu, KVM_SET_VCPU_EVENTS, &e))
    EXPECT(WITH(e.flags = 1u << 6), EINVAL);
    EXPECT(WITH(e.flags = 1u << 31), EINVAL);
    // KVM_VCPUEVENT_VALID_PAYLOAD and, of 6.1, KVM_VCPUEVENT_VALID_TRIPLE_FAULT: nobody has asked for them.
    EXPECT(WITH(e.flags = 1u << 4), EINVAL);
    EXPECT(WITH(e.flags = 1u << 5), EINVAL);
    EXPECT(WITH(e.exception.injected = 1, e.exception.nr = 32), EINVAL);
    EXPECT(WITH(e.exception.injected = 1, e.exception.nr = 255), EINVAL);
    EXPECT(WITH(e.exception.injected = 1, e.exception.nr = 2), EINVAL);
    // Without payloads what is pending does not count.
    EXPECT(WITH(e.flags = 0, e.exception.pending = 1, e.exception.nr = 2), 0);
    EXPECT(WITH(e.flags = 0, e.exception.nr = 255), 0);
    EXPECT(enable_cap(m.vm, KVM_CAP_EXCEPTION_PAYLOAD, 0, 1), 0);
    EXPECT(WITH(e.flags = 1u << 4, e.exception.pending = 1, e.exception.nr = 2), EINVAL);
    EXPECT(WITH(e.flags = 1u << 4, e.exception.pending = 1, e.exception.nr = 32), EINVAL);
    EXPECT(WITH(e.flags = 0), 0);
#undef WITH
    const uint32_t apic_states[] = {KVM_MP_STATE_UNINITIALIZED, KVM_MP_STATE_INIT_RECEIVED,
                                    KVM_MP_STATE_SIPI_RECEIVED, KVM_MP_STATE_HALTED};
    for (size_t n = 0; n < 4; n++) {
        struct kvm_mp_state state = {.mp_state = apic_states[n]};
        EXPECT(ioctl(m.vcpu, KVM_SET_MP_STATE, &state), 0);
        EXPECT(ioctl(none.vcpu, KVM_SET_MP_STATE, &state), EINVAL);
    }
    const uint32_t no_states[] = {5, 6, 7, 8, 10, 1u << 31, -1};
    for (size_t n = 0; n < sizeof no_states / sizeof no_states[0]; n++) {
        struct kvm_mp_state state = {.mp_state = no_states[n]};
        EXPECT(ioctl(m.vcpu, KVM_SET_MP_STATE, &state), EINVAL);
        EXPECT(ioctl(none.vcpu, KVM_SET_MP_STATE, &state), EINVAL);
    }
    struct kvm_interrupt interrupt = {.irq = 256};
    EXPECT(ioctl(none.vcpu, KVM_INTERRUPT, &interrupt), EINVAL);
    EXPECT(ioctl(m.vcpu, KVM_INTERRUPT, &interrupt), EINVAL);
    interrupt.irq = -1;
    EXPECT(ioctl(split.vcpu, KVM_INTERRUPT, &interrupt), EINVAL);
    interrupt.irq = 32;
    EXPECT(ioctl(m.vcpu, KVM_INTERRUPT, &interrupt), ENXIO);
    EXPECT(ioctl(split.vcpu, KVM_INTERRUPT, &interrupt), 0);
    EXPECT(ioctl(split.vcpu, KVM_INTERRUPT, &interrupt), EEXIST);
    EXPECT(ioctl(none.vcpu, KVM_INTERRUPT, &interrupt), 0);
    EXPECT(ioctl(none.vcpu, KVM_INTERRUPT, &interrupt), 0);
    end(&m), end(&none), end(&split);
}

struct msrs {
    struct kvm_msrs head;
    struct kvm_msr_entry entries[256];
};

// See: arch/x86/kvm/x86.c, msr_io, kvm_vcpu_ioctl_x86_setup_mce.
static void model_specific_registers(void) {
    struct machine m = machine(ALL_CHIPS);
    static struct msrs msrs;
    const unsigned long calls[] = {KVM_GET_MSRS, KVM_SET_MSRS};
    for (size_t n = 0; n < 2; n++) {
        const uint32_t counts[] = {256, 257, 1u << 28, -1};
        for (size_t k = 0; k < sizeof counts / sizeof counts[0]; k++) {
            msrs.head.nmsrs = counts[k];
            EXPECT(ioctl(m.vcpu, calls[n], &msrs), E2BIG);
        }
        msrs.head.nmsrs = 255;
        // The first is not there: none is done.
        msrs.entries[0].index = 0xdeadbeef;
        ENSURE(ioctl(m.vcpu, calls[n], &msrs) == 0);
        msrs.entries[0].index = 0x174, msrs.entries[1].index = 0xdeadbeef;
        ENSURE(ioctl(m.vcpu, calls[n], &msrs) == 1);
        struct msrs *cut = before_nothing(sizeof cut->head + sizeof cut->entries[0]);
        cut->head.nmsrs = 2;
        EXPECT(ioctl(m.vcpu, calls[n], cut), EFAULT);
    }
    // What they cannot have: addresses of no 48 bits, types of no memory, bits that are reserved.
    const struct {
        uint32_t index;
        uint64_t data;
    } bad[] = {{0xc0000082, 1ull << 60}, {0x277, 2}, {0x277, 0x0800}, {0x2ff, 2}, {0x250, 2},
               {0x1b, 1ull << 62},       {0xc0000080, 1ull << 63}};
    for (size_t n = 0; n < sizeof bad / sizeof bad[0]; n++) {
        msrs.head.nmsrs = 1, msrs.entries[0].index = bad[n].index;
        msrs.entries[0].data = bad[n].data;
        int done = ioctl(m.vcpu, KVM_SET_MSRS, &msrs);
        if (done != 0)
            printf("    register %#x:\n", bad[n].index), ENSURE(done == 0);
    }
    uint64_t supported, cap;
    EXPECT(ioctl(m.kvm, KVM_X86_GET_MCE_CAP_SUPPORTED, &supported), 0);
    cap = 0;
    EXPECT(ioctl(m.vcpu, KVM_X86_SETUP_MCE, &cap), EINVAL);
    cap = 33;
    EXPECT(ioctl(m.vcpu, KVM_X86_SETUP_MCE, &cap), EINVAL);
    cap = 10 | 1ull << 63;
    EXPECT(ioctl(m.vcpu, KVM_X86_SETUP_MCE, &cap), EINVAL);
    cap = 10 | supported;
    EXPECT(ioctl(m.vcpu, KVM_X86_SETUP_MCE, &cap), 0);
    end(&m);
}

// See: arch/x86/kvm/cpuid.c, kvm_vcpu_ioctl_set_cpuid2, kvm_check_cpuid.
static void cpuid(void) {
    struct machine m = machine(NO_CHIPS);
    static struct {
        struct kvm_cpuid2 head;
        struct kvm_cpuid_entry2 entries[256];
    } cpuid;
    const uint32_t counts[] = {257, 1u << 27, -1};
    for (size_t n = 0; n < sizeof counts / sizeof counts[0]; n++) {
        cpuid.head.nent = counts[n];
        EXPECT(ioctl(m.vcpu, KVM_SET_CPUID2, &cpuid), E2BIG);
    }
    cpuid.entries[0].function = 0x80000008;
    cpuid.head.nent = 1;
    for (uint32_t width = 1; width < 256; width++) {
        if (width == 48 || width == 57)
            continue;
        cpuid.entries[0].eax = width << 8 | 36;
        EXPECT(ioctl(m.vcpu, KVM_SET_CPUID2, &cpuid), EINVAL);
    }
    cpuid.entries[0].eax = 48 << 8 | 255;
    EXPECT(ioctl(m.vcpu, KVM_SET_CPUID2, &cpuid), 0);
    cpuid.head.nent = 0;
    EXPECT(ioctl(m.vcpu, KVM_GET_CPUID2, &cpuid), E2BIG);
    cpuid.head.nent = -1, cpuid.entries[0].function = 0;
    EXPECT(ioctl(m.vcpu, KVM_GET_CPUID2, &cpuid), 0);
    // Linux 6.1 does not say how many there are, if there is room for them.
    ENSURE(cpuid.head.nent == 1 || cpuid.head.nent == (uint32_t)-1);
    ENSURE(cpuid.entries[0].function == 0x80000008);
    struct kvm_cpuid2 *cut = before_nothing(sizeof *cut);
    cut->nent = 1;
    EXPECT(ioctl(m.vcpu, KVM_GET_CPUID2, cut), EFAULT);
    EXPECT(ioctl(m.vcpu, KVM_SET_CPUID2, cut), EFAULT);
    cut->nent = 0;
    EXPECT(ioctl(m.vcpu, KVM_SET_CPUID2, cut), 0);
    end(&m);
}

static void what_is_absent_or_an_attribute(void) {
    struct machine m = machine(ALL_CHIPS), none = machine(NO_CHIPS);
    struct kvm_device_attr a = {.group = 1};
    EXPECT(ioctl(m.vcpu, KVM_HAS_DEVICE_ATTR, &a), ENXIO);
    EXPECT(ioctl(m.vcpu, KVM_GET_DEVICE_ATTR, &a), ENXIO);
    // KVM_VCPU_TSC_CTRL has one, KVM_VCPU_TSC_OFFSET.
    a.group = 0, a.attr = 1;
    EXPECT(ioctl(m.vcpu, KVM_HAS_DEVICE_ATTR, &a), ENXIO);
    EXPECT(ioctl(m.vcpu, KVM_SET_DEVICE_ATTR, &a), ENXIO);
    a.attr = 0;
    EXPECT(ioctl(m.vcpu, KVM_HAS_DEVICE_ATTR, &a), 0);
    EXPECT(ioctl(m.vcpu, KVM_GET_DEVICE_ATTR, &a), EFAULT);
    EXPECT(ioctl(m.vcpu, KVM_SET_DEVICE_ATTR, &a), EFAULT);
    // The device has one, KVM_X86_XCOMP_GUEST_SUPP: x87 and SSE at least.
    uint64_t components = 0;
    a.addr = (uintptr_t)&components;
    EXPECT(ioctl(m.kvm, KVM_HAS_DEVICE_ATTR, &a), 0);
    EXPECT(ioctl(m.kvm, KVM_GET_DEVICE_ATTR, &a), 0);
    ENSURE((components & 3) == 3);
    a.addr = 0;
    EXPECT(ioctl(m.kvm, KVM_GET_DEVICE_ATTR, &a), EFAULT);
    a.attr = 1;
    EXPECT(ioctl(m.kvm, KVM_HAS_DEVICE_ATTR, &a), ENXIO);
    EXPECT(ioctl(m.kvm, KVM_GET_DEVICE_ATTR, &a), ENXIO);
    struct kvm_tpr_access_ctl tpr = {.flags = 1};
    EXPECT(ioctl(m.vcpu, KVM_TPR_ACCESS_REPORTING, &tpr), EINVAL);
    // x86.c, kvm_arch_vcpu_ioctl: the local APIC's is refused without one whatever it points to.
    struct kvm_vapic_addr vapic = {0};
    EXPECT(ioctl(m.vcpu, KVM_SET_VAPIC_ADDR, &vapic), 0);
    EXPECT(ioctl(none.vcpu, KVM_SET_VAPIC_ADDR, &vapic), EINVAL);
    EXPECT(ioctl(none.vcpu, KVM_SET_VAPIC_ADDR, 0), EINVAL);
    EXPECT(ioctl(m.vcpu, KVM_KVMCLOCK_CTRL, 0), EINVAL);
    // kvm_main.c, kvm_vcpu_ioctl: a set of signals has 8 bytes.
    struct {
        struct kvm_signal_mask head;
        uint8_t set[8];
    } mask = {.head.len = 7};
    EXPECT(ioctl(m.vcpu, KVM_SET_SIGNAL_MASK, &mask), EINVAL);
    mask.head.len = -1;
    EXPECT(ioctl(m.vcpu, KVM_SET_SIGNAL_MASK, &mask), EINVAL);
    mask.head.len = 8;
    EXPECT(ioctl(m.vcpu, KVM_SET_SIGNAL_MASK, &mask), 0);
    EXPECT(ioctl(m.vcpu, KVM_SET_SIGNAL_MASK, 8), EFAULT);
    struct kvm_signal_mask *cut = before_nothing(sizeof *cut);
    cut->len = 8;
    EXPECT(ioctl(m.vcpu, KVM_SET_SIGNAL_MASK, cut), EFAULT);
    EXPECT(ioctl(m.vcpu, KVM_SET_SIGNAL_MASK, 0), 0);
    end(&m), end(&none);
}

// Chips take whatever they are told, and go on.
static void chips(void) {
    struct machine m = bare_machine(ALL_CHIPS);
    struct kvm_pit_config config = {0};
    EXPECT(ioctl(m.vm, KVM_CREATE_PIT2, &config), 0);
    m.vcpu = add_vcpu(&m, 0);
    struct kvm_irqchip chip = {0};
    const uint32_t bad[] = {3, 1u << 31, -1};
    for (size_t n = 0; n < sizeof bad / sizeof bad[0]; n++) {
        chip.chip_id = bad[n];
        EXPECT(ioctl(m.vm, KVM_GET_IRQCHIP, &chip), EINVAL);
        EXPECT(ioctl(m.vm, KVM_SET_IRQCHIP, &chip), EINVAL);
    }
    for (uint32_t round = 0; round < 64; round++) {
        uint32_t seed = round * 2654435761u;
        for (uint32_t id = 0; id < 3; id++) {
            for (size_t k = 0; k < sizeof chip.chip; k++)
                ((uint8_t *)&chip.chip)[k] = round == 0 ? 0xff : (seed = seed * 1103515245 + 12345) >> 24;
            chip.chip_id = id;
            EXPECT(ioctl(m.vm, KVM_SET_IRQCHIP, &chip), 0);
            EXPECT(ioctl(m.vm, KVM_GET_IRQCHIP, &chip), 0);
        }
        struct kvm_pit_state2 pit;
        for (size_t k = 0; k < sizeof pit; k++)
            ((uint8_t *)&pit)[k] = round == 0 ? 0xff : (seed = seed * 1103515245 + 12345) >> 24;
        // The 8254 of a Linux can be asked for ticks faster than it can make them.
        pit.channels[0].count |= 0x8000;
        EXPECT(ioctl(m.vm, KVM_SET_PIT2, &pit), 0);
        EXPECT(ioctl(m.vm, KVM_GET_PIT2, &pit), 0);
        for (uint32_t pin = 0; pin < 26; pin++) {
            struct kvm_irq_level level = {.irq = pin, .level = round & 1};
            EXPECT(ioctl(m.vm, KVM_IRQ_LINE, &level), 0);
        }
        struct kvm_lapic_state lapic;
        for (size_t k = 0; k < sizeof lapic; k++)
            ((uint8_t *)&lapic)[k] = round == 0 ? 0xff : (seed = seed * 1103515245 + 12345) >> 24;
        EXPECT(ioctl(m.vcpu, KVM_SET_LAPIC, &lapic), 0);
        EXPECT(ioctl(m.vcpu, KVM_GET_LAPIC, &lapic), 0);
    }
    end(&m);
}

const struct check STATES[] = {
    {"general_and_system_registers", general_and_system_registers},
    {"extended_registers", extended_registers},
    {"debug_registers", debug_registers},
    {"events", events},
    {"model_specific_registers", model_specific_registers},
    {"cpuid", cpuid},
    {"what_is_absent_or_an_attribute", what_is_absent_or_an_attribute},
    {"chips", chips},
    {0},
};
