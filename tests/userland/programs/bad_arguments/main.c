// KVM's ioctls with bad arguments, each of which has to give Linux's error and to harm nothing: each check is a line, `ok NAME`, or
// `FAILED NAME` after a line for each expectation that was not met.
//
// It knows /dev/kvm as Linux's headers and source have it, and nothing of what is behind. The checks: pointers.c, values.c (what is set
// once for a VM), states.c (a vCPU's state, and that of chips), order.c, lives.c (descriptors and threads).
#include "checks.h"

static int failures;

static void tell(const char *file, int line, const char *what, int got, const char *not) {
    printf("    %s:%d: %s: %s, not %s\n", file, line, what, got ? strerrorname_np(got) : "no error",
           not );
    failures++;
}

int outcome(long result) { return result < 0 ? errno : 0; }

static const char *name(int error) { return error ? strerrorname_np(error) : "no error"; }

void expect(const char *file, int line, const char *what, long result, int error) {
    if (outcome(result) != error)
        tell(file, line, what, outcome(result), name(error));
}

void expect_either(const char *file, int line, const char *what, long result, int error,
                   int other) {
    if (outcome(result) != error && outcome(result) != other)
        tell(file, line, what, outcome(result), name(error));
}

void ensure(const char *file, int line, const char *what, int condition) {
    if (!condition)
        printf("    %s:%d: not so: %s\n", file, line, what), failures++;
}

int enable_cap(int fd, uint32_t cap, uint32_t flags, uint64_t value) {
    struct kvm_enable_cap enable = {.cap = cap, .flags = flags, .args = {value}};
    return ioctl(fd, KVM_ENABLE_CAP, &enable);
}

struct machine bare_machine(enum chips chips) {
    struct machine m = {.kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC), .vcpu = -1};
    m.vm = ioctl(m.kvm, KVM_CREATE_VM, 0);
    m.memory = mmap(NULL, MEMORY, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    struct kvm_userspace_memory_region slot = {.flags = KVM_MEM_LOG_DIRTY_PAGES,
                                               .memory_size = MEMORY,
                                               .userspace_addr = (uintptr_t)m.memory};
    ENSURE(m.kvm >= 0 && m.vm >= 0 && m.memory != MAP_FAILED);
    EXPECT(ioctl(m.vm, KVM_SET_USER_MEMORY_REGION, &slot), 0);
    if (chips == ALL_CHIPS)
        EXPECT(ioctl(m.vm, KVM_CREATE_IRQCHIP, 0), 0);
    if (chips == SPLIT_CHIPS)
        EXPECT(enable_cap(m.vm, KVM_CAP_SPLIT_IRQCHIP, 0, 24), 0);
    return m;
}

int add_vcpu(struct machine *m, int id) { return ioctl(m->vm, KVM_CREATE_VCPU, id); }

struct machine machine(enum chips chips) {
    struct machine m = bare_machine(chips);
    m.vcpu = add_vcpu(&m, 0);
    int size = ioctl(m.kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
    m.run = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, m.vcpu, 0);
    ENSURE(m.vcpu >= 0 && m.run != MAP_FAILED);
    return m;
}

void end(struct machine *m) {
    if (m->run)
        munmap(m->run, ioctl(m->kvm, KVM_GET_VCPU_MMAP_SIZE, 0));
    if (m->vcpu >= 0)
        close(m->vcpu);
    close(m->vm);
    close(m->kvm);
    munmap(m->memory, MEMORY);
}

void real_mode(struct machine *m, const void *code, size_t size) {
    struct kvm_sregs sregs;
    memcpy(m->memory + CODE, code, size);
    ioctl(m->vcpu, KVM_GET_SREGS, &sregs);
    sregs.cs.base = sregs.cs.selector = 0;
    EXPECT(ioctl(m->vcpu, KVM_SET_SREGS, &sregs), 0);
    struct kvm_regs regs = {.rip = CODE, .rsp = 0x8000, .rflags = 2};
    EXPECT(ioctl(m->vcpu, KVM_SET_REGS, &regs), 0);
}

int all_cpuid(int kvm, int vcpu) {
    struct {
        struct kvm_cpuid2 head;
        struct kvm_cpuid_entry2 entries[256];
    } cpuid = {.head.nent = 256};
    if (ioctl(kvm, KVM_GET_SUPPORTED_CPUID, &cpuid) != 0)
        return -1;
    return ioctl(vcpu, KVM_SET_CPUID2, &cpuid);
}

void *before_nothing(size_t size) {
    size_t pages = (size + PAGE - 1) / PAGE * PAGE;
    uint8_t *start =
        mmap(NULL, pages + PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    munmap(start + pages, PAGE);
    return start + pages - size;
}

static int run(const struct check *checks, const char *only) {
    int failed = 0;
    for (; checks->name; checks++) {
        if (only && strcmp(only, checks->name) != 0)
            continue;
        failures = 0;
        checks->run();
        printf("%s %s\n", failures ? "FAILED" : "ok", checks->name);
        failed += failures != 0;
    }
    return failed;
}

static const char *of(int kind) { return kind == DEVICE ? "device" : kind == VM ? "vm" : "vcpu"; }

int main(int count, char **arguments) {
    const char *only = count > 1 ? arguments[1] : NULL;
    int failed = 0;
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (only && strcmp(only, "--list") == 0) {
        for (size_t n = 0; n < CALL_COUNT; n++)
            printf("%s %s\n", of(CALLS[n].of), CALLS[n].name);
        return 0;
    }
    const struct check *all[] = {POINTERS, VALUES, STATES, ORDER, LIVES};
    for (size_t n = 0; n < sizeof all / sizeof all[0]; n++)
        failed += run(all[n], only);
    return failed != 0;
}
