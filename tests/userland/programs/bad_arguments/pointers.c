// Every call with a pointer to what is not there, and with a number that is not quite its own.
#include "checks.h"

static int descriptor(const struct machine *m, int of) {
    return of == DEVICE ? m->kvm : of == VM ? m->vm : m->vcpu;
}

// What is said of a number that is not known: see virt/kvm/kvm_main.c, kvm_dev_ioctl and kvm_vm_ioctl, and arch/x86/kvm/x86.c for
// what these come to in the end.
static int unknown(int of) { return of == VM ? ENOTTY : EINVAL; }

// A machine with all chips, and an 8254.
static struct machine whole_machine(void) {
    struct machine m = bare_machine(ALL_CHIPS);
    struct kvm_pit_config pit = {0};
    EXPECT(ioctl(m.vm, KVM_CREATE_PIT2, &pit), 0);
    m.vcpu = add_vcpu(&m, 0);
    return m;
}

// What a call answers at a pointer where nothing is.
static int at_nothing(const struct call *call) {
    // With a vCPU there it is too late: that is looked at first.
    return call->number == KVM_SET_IDENTITY_MAP_ADDR ? EINVAL : EFAULT;
}

static void expect_at(const struct machine *m, const struct call *call, const void *pointer,
                      int error, const char *where) {
    char what[128];
    snprintf(what, sizeof what, "%s %s", call->name, where);
    errno = 0;
    int result = ioctl(descriptor(m, call->of), call->number, pointer);
    // A Linux that has no nested guests has none of their state either; before 6.8 there is no second call for slots.
    if (call->number == KVM_GET_NESTED_STATE || call->number == KVM_SET_NESTED_STATE)
        expect_either(__FILE_NAME__, __LINE__, what, result, error, EINVAL);
    else if (call->number == KVM_SET_USER_MEMORY_REGION2)
        expect_either(__FILE_NAME__, __LINE__, what, result, error, ENOTTY);
    else
        expect(__FILE_NAME__, __LINE__, what, result, error);
}

static void what_is_not_mapped_is_efault(void) {
    struct machine m = whole_machine();
    uint8_t *gone = mmap(NULL, PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    const struct {
        const char *name;
        uintptr_t address;
    } places[] = {
        {"at null", 0},
        {"near null", 8},
        {"at an odd place near null", 0x123},
        {"where nothing may be accessed", (uintptr_t)gone},
        {"at the kernel's", 0xffff800000000000},
        {"at no address", 0x0123456789abcdef},
        {"at the end", -16ul},
        {"at the last byte", -1ul},
        {"at the end of the caller's half", 0x00007ffffffff000 - 4},
    };
    for (size_t n = 0; n < CALL_COUNT; n++)
        for (size_t k = 0; CALLS[n].pointer != VALUE && k < sizeof places / sizeof places[0]; k++)
            expect_at(&m, &CALLS[n], (void *)places[k].address, at_nothing(&CALLS[n]),
                      places[k].name);
    munmap(gone, PAGE);
    end(&m);
}

static void what_is_cut_off_is_efault(void) {
    struct machine m = whole_machine();
    for (size_t n = 0; n < CALL_COUNT; n++) {
        if (CALLS[n].pointer == VALUE)
            continue;
        // Of a nested state its size is looked at before the rest is: 0 is too little.
        if (CALLS[n].number == KVM_GET_NESTED_STATE)
            continue;
        expect_at(&m, &CALLS[n], before_nothing(CALLS[n].size - 1), at_nothing(&CALLS[n]),
                  "without its last byte");
    }
    end(&m);
}

static void what_cannot_be_written_is_efault(void) {
    struct machine m = whole_machine();
    uint8_t *zeros = mmap(NULL, 4 * PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    for (size_t n = 0; n < CALL_COUNT; n++) {
        if (CALLS[n].pointer != WRITTEN)
            continue;
        int error = EFAULT;
        // There is no room for any entry: that is seen first. See: arch/x86/kvm/cpuid.c, kvm_dev_ioctl_get_cpuid.
        if (CALLS[n].number == KVM_GET_SUPPORTED_CPUID || CALLS[n].number == KVM_GET_EMULATED_CPUID)
            error = E2BIG;
        expect_at(&m, &CALLS[n], zeros, error, "where nothing may be written");
    }
    munmap(zeros, 4 * PAGE);
    end(&m);
}

// What a call gives is the same at any place, also an odd one, and is all that it writes.
static void odd_places_are_as_good_as_others(void) {
    struct machine m = whole_machine();
    for (size_t n = 0; n < CALL_COUNT; n++) {
        if (CALLS[n].pointer != WRITTEN || CALLS[n].of != VCPU)
            continue;
        if (CALLS[n].number == KVM_GET_NESTED_STATE || CALLS[n].number == KVM_TRANSLATE)
            continue;
        uint8_t even[2 * PAGE] = {0}, odd[2 * PAGE];
        memset(odd, 0xa5, sizeof odd);
        memset(odd + 3, 0, CALLS[n].size);
        expect_at(&m, &CALLS[n], even, 0, "at an even place");
        expect_at(&m, &CALLS[n], odd + 3, 0, "at an odd place");
        int same = memcmp(even, odd + 3, CALLS[n].size) == 0;
        if (!same && CALLS[n].number != KVM_GET_LAPIC)
            printf("    %s:\n", CALLS[n].name), ENSURE(same);
        for (size_t k = 0; k < sizeof odd; k++)
            if ((k < 3 || k >= 3 + CALLS[n].size) && odd[k] != 0xa5) {
                printf("    %s:\n", CALLS[n].name), ENSURE(!"bytes beside it stay");
                break;
            }
    }
    // The same the other way.
    uint8_t place[2 * PAGE];
    void *odd = place + 5;
    EXPECT(ioctl(m.vcpu, KVM_GET_REGS, odd), 0);
    EXPECT(ioctl(m.vcpu, KVM_SET_REGS, odd), 0);
    EXPECT(ioctl(m.vcpu, KVM_GET_SREGS, odd), 0);
    EXPECT(ioctl(m.vcpu, KVM_SET_SREGS, odd), 0);
    EXPECT(ioctl(m.vcpu, KVM_GET_XSAVE, odd), 0);
    EXPECT(ioctl(m.vcpu, KVM_SET_XSAVE, odd), 0);
    EXPECT(ioctl(m.vcpu, KVM_GET_LAPIC, odd), 0);
    EXPECT(ioctl(m.vcpu, KVM_SET_LAPIC, odd), 0);
    end(&m);
}

// A number has the size of its structure, and its direction: another one is another call.
static void another_size_is_another_call(void) {
    struct machine m = whole_machine();
    for (size_t n = 0; n < CALL_COUNT; n++) {
        unsigned long number = CALLS[n].number;
        const unsigned long others[] = {number + (1ul << _IOC_SIZESHIFT),
                                        number - (_IOC_SIZE(number) ? 1ul << _IOC_SIZESHIFT : 0),
                                        number ^ (1ul << _IOC_DIRSHIFT),
                                        number ^ (2ul << _IOC_DIRSHIFT)};
        int fd = descriptor(&m, CALLS[n].of);
        for (size_t k = 0; k < sizeof others / sizeof others[0]; k++) {
            if (others[k] == number)
                continue;
            char what[128];
            snprintf(what, sizeof what, "%s as %#lx", CALLS[n].name, others[k]);
            expect(__FILE_NAME__, __LINE__, what, ioctl(fd, others[k], 0), unknown(CALLS[n].of));
        }
    }
    end(&m);
}

static void each_call_has_its_descriptor(void) {
    struct machine m = whole_machine();
    int statistics = ioctl(m.vm, KVM_GET_STATS_FD, 0);
    struct kvm_create_device vfio = {.type = KVM_DEV_TYPE_VFIO};
    EXPECT(ioctl(m.vm, KVM_CREATE_DEVICE, &vfio), 0);
    const int kinds[] = {DEVICE, VM, VCPU};
    for (size_t n = 0; n < CALL_COUNT; n++) {
        char what[128];
        for (size_t k = 0; k < 3; k++) {
            if (kinds[k] == CALLS[n].of || kinds[k] & CALLS[n].not_tried_on)
                continue;
            int result = ioctl(descriptor(&m, kinds[k]), CALLS[n].number, 0);
            snprintf(what, sizeof what, "%s of another's descriptor", CALLS[n].name);
            expect(__FILE_NAME__, __LINE__, what, result, unknown(kinds[k]));
        }
        snprintf(what, sizeof what, "%s of none", CALLS[n].name);
        expect(__FILE_NAME__, __LINE__, what, ioctl(-1, CALLS[n].number, 0), EBADF);
        snprintf(what, sizeof what, "%s of statistics", CALLS[n].name);
        expect(__FILE_NAME__, __LINE__, what, ioctl(statistics, CALLS[n].number, 0), ENOTTY);
        if (_IOC_TYPE(CALLS[n].number) == KVMIO && _IOC_NR(CALLS[n].number) >= 0xe1 &&
            _IOC_NR(CALLS[n].number) <= 0xe3)
            continue; // Attributes, which this has.
        snprintf(what, sizeof what, "%s of the device for VFIO", CALLS[n].name);
        expect(__FILE_NAME__, __LINE__, what, ioctl(vfio.fd, CALLS[n].number, 0), ENOTTY);
    }
    close(statistics), close(vfio.fd);
    end(&m);
}

const struct check POINTERS[] = {
    {"what_is_not_mapped_is_efault", what_is_not_mapped_is_efault},
    {"what_is_cut_off_is_efault", what_is_cut_off_is_efault},
    {"what_cannot_be_written_is_efault", what_cannot_be_written_is_efault},
    {"odd_places_are_as_good_as_others", odd_places_are_as_good_as_others},
    {"another_size_is_another_call", another_size_is_another_call},
    {"each_call_has_its_descriptor", each_call_has_its_descriptor},
    {0},
};
