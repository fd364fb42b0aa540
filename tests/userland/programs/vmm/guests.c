// What is there, and guests that run.
#include "vmm.h"

void device(void) {
    struct stat found;
    struct statx more;
    CHECK(stat("/dev/kvm", &found) == 0);
    CHECK(S_ISCHR(found.st_mode) && (found.st_mode & 0666) == 0666);
    CHECK(found.st_rdev == makedev(10, 232));
    CHECK(lstat("/dev/kvm", &found) == 0 && S_ISCHR(found.st_mode));
    CHECK(fstatat(AT_FDCWD, "/dev/kvm", &found, 0) == 0 && S_ISCHR(found.st_mode));
    CHECK(statx(AT_FDCWD, "/dev/kvm", 0, STATX_BASIC_STATS, &more) == 0);
    CHECK(S_ISCHR(more.stx_mode) && more.stx_rdev_major == 10 && more.stx_rdev_minor == 232);
    CHECK(access("/dev/kvm", R_OK | W_OK) == 0 && access("/dev/kvm", F_OK) == 0);
    CHECK(faccessat(AT_FDCWD, "/dev/kvm", R_OK | W_OK, 0) == 0);
    CHECK(eaccess("/dev/kvm", W_OK) == 0);
    REFUSED(access("/dev/kvm", X_OK), EACCES);
    REFUSED(access("/dev/kvm/x", R_OK) | access("/dev/kvmx", R_OK), errno == ENOTDIR ? ENOTDIR : ENOENT);
    REFUSED(stat("/dev/kv", &found), ENOENT);
    REFUSED(open("/dev/kvm", O_RDWR | O_DIRECTORY), ENOTDIR);
    REFUSED(open("/dev/kvm", O_RDWR | O_CREAT | O_EXCL, 0600), EEXIST);
    int kvm[] = {open("/dev/kvm", O_RDWR), open64("/dev/kvm", O_RDWR),
                 openat(AT_FDCWD, "/dev/kvm", O_RDWR), openat64(AT_FDCWD, "/dev/kvm", O_RDONLY)};
    for (int n = 0; n < 4; n++) {
        CHECK(kvm[n] >= 0);
        CHECK(ioctl(kvm[n], KVM_GET_API_VERSION, 0) == 12);
        CHECK(fcntl(kvm[n], F_GETFD) == FD_CLOEXEC);
    }
    CHECK(ioctl(kvm[0], KVM_CHECK_EXTENSION, KVM_CAP_USER_MEMORY) == 1);
    CHECK(ioctl(kvm[0], KVM_CHECK_EXTENSION, 100000) == 0);
    CHECK(ioctl(kvm[0], KVM_GET_VCPU_MMAP_SIZE, 0) == 3 * 4096);
    REFUSED(ioctl(kvm[0], KVM_CREATE_VM, 77), EINVAL);
    REFUSED(ioctl(kvm[0], KVM_GET_API_VERSION, 1), EINVAL);
    // Others' files are none of it.
    int null = open("/dev/null", O_RDWR);
    CHECK(null >= 0);
    REFUSED(ioctl(null, KVM_GET_API_VERSION, 0), ENOTTY);
    REFUSED(ioctl(-1, KVM_GET_API_VERSION, 0), EBADF);
    REFUSED(ioctl(1 << 30, KVM_GET_API_VERSION, 0), EBADF);
    close(null);
    for (int n = 0; n < 4; n++)
        CHECK(close(kvm[n]) == 0);
    // What is opened is made if it is to be.
    char path[] = "/tmp/vmm-XXXXXX";
    int file = mkstemp(path);
    CHECK(file >= 0);
    CHECK(unlink(path) == 0 && close(file) == 0);
    file = open(path, O_RDWR | O_CREAT | O_EXCL, 0640);
    CHECK(file >= 0 && fstat(file, &found) == 0 && (found.st_mode & 0777) == 0640);
    CHECK(unlink(path) == 0 && close(file) == 0);
}

void real_mode_guest(void) {
    struct machine m = machine();
    struct vcpu v = vcpu(&m, 0);
    CHECK(m.kvm >= 0 && m.vm >= 0 && v.fd >= 0 && v.run != MAP_FAILED);
    const uint8_t code[] = {
        0xba, 0xf8, 0x03,       // mov dx, 0x3f8
        0xb0, 'A',              // mov al, 'A'
        0xee,                   // out dx, al
        0xe4, 0x61,             // in al, 0x61
        0xa2, 0x00, 0x20,       // mov [0x2000], al
        0xb8, 0x00, 0xf0,       // mov ax, 0xf000
        0x8e, 0xd8,             // mov ds, ax
        0xc7, 0x06, 0x10, 0x00, 0x34, 0x12, // mov word [0x10], 0x1234
        0xa1, 0x20, 0x00,       // mov ax, [0x20]
        0xf4,                   // hlt
    };
    // 0xf0000 is a hole.
    struct kvm_userspace_memory_region slot = {.slot = 0, .memory_size = 0};
    CHECK(ioctl(m.vm, KVM_SET_USER_MEMORY_REGION, &slot) == 0);
    slot.memory_size = 0xf0000, slot.userspace_addr = (uintptr_t)m.memory;
    CHECK(ioctl(m.vm, KVM_SET_USER_MEMORY_REGION, &slot) == 0);
    real_mode(&m, &v, code, sizeof code);

    CHECK(ioctl(v.fd, KVM_RUN, 0) == 0);
    CHECK(v.run->exit_reason == KVM_EXIT_IO && v.run->io.direction == KVM_EXIT_IO_OUT);
    CHECK(v.run->io.port == 0x3f8 && v.run->io.size == 1 && v.run->io.count == 1);
    CHECK(*((char *)v.run + v.run->io.data_offset) == 'A');

    CHECK(ioctl(v.fd, KVM_RUN, 0) == 0);
    CHECK(v.run->exit_reason == KVM_EXIT_IO && v.run->io.direction == KVM_EXIT_IO_IN);
    CHECK(v.run->io.port == 0x61 && v.run->io.size == 1);
    *((uint8_t *)v.run + v.run->io.data_offset) = 0x5a;

    CHECK(ioctl(v.fd, KVM_RUN, 0) == 0);
    CHECK(m.memory[0x2000] == 0x5a);
    CHECK(v.run->exit_reason == KVM_EXIT_MMIO && v.run->mmio.is_write);
    CHECK(v.run->mmio.phys_addr == 0xf0010 && v.run->mmio.len == 2);
    CHECK(v.run->mmio.data[0] == 0x34 && v.run->mmio.data[1] == 0x12);

    CHECK(ioctl(v.fd, KVM_RUN, 0) == 0);
    CHECK(v.run->exit_reason == KVM_EXIT_MMIO && !v.run->mmio.is_write);
    CHECK(v.run->mmio.phys_addr == 0xf0020 && v.run->mmio.len == 2);
    v.run->mmio.data[0] = 0xcd, v.run->mmio.data[1] = 0xab;

    CHECK(ioctl(v.fd, KVM_RUN, 0) == 0);
    CHECK(v.run->exit_reason == KVM_EXIT_HLT);
    struct kvm_regs regs;
    CHECK(ioctl(v.fd, KVM_GET_REGS, &regs) == 0);
    CHECK((regs.rax & 0xffff) == 0xabcd && regs.rip == CODE + sizeof code);
    end_vcpu(&m, &v);
    end(&m);
}

// Counts in RAM for a while, tells where it is, and halts.
static const uint8_t COUNT[] = {
    0xb9, 0x40, 0x0d, 0x03, 0x00, // mov ecx, 200000
    0xf0, 0x48, 0xff, 0x07,       // lock inc qword [rdi]
    0x48, 0xff, 0xc9,             // dec rcx
    0x75, 0xf7,                   // jnz to the inc
    0x89, 0xf0,                   // mov eax, esi
    0xe7, 0x80,                   // out 0x80, eax
    0xf4,                         // hlt
};

struct counting {
    struct vcpu v;
    int number;
    const char *failure;
};

static void *count(void *argument) {
    struct counting *c = argument;
    c->failure = "the first KVM_RUN";
    if (ioctl(c->v.fd, KVM_RUN, 0) != 0)
        return NULL;
    c->failure = "no port access";
    if (c->v.run->exit_reason != KVM_EXIT_IO || c->v.run->io.port != 0x80 || c->v.run->io.size != 4)
        return NULL;
    c->failure = "another's number";
    if (*(int *)((char *)c->v.run + c->v.run->io.data_offset) != c->number)
        return NULL;
    c->failure = "no halt";
    if (ioctl(c->v.fd, KVM_RUN, 0) != 0 || c->v.run->exit_reason != KVM_EXIT_HLT)
        return NULL;
    c->failure = NULL;
    return NULL;
}

void two_vcpus_in_long_mode(void) {
    struct machine m = machine();
    struct counting counting[2];
    pthread_t threads[2];
    for (int n = 0; n < 2; n++) {
        counting[n] = (struct counting){.v = vcpu(&m, n), .number = 1000 + n};
        CHECK(counting[n].v.fd >= 0);
        CHECK(all_cpuid(&m, &counting[n].v) == 0);
        CHECK(long_mode(&m, &counting[n].v, 0x10000 * (n + 1), COUNT, sizeof COUNT) == 0);
        struct kvm_regs regs;
        CHECK(ioctl(counting[n].v.fd, KVM_GET_REGS, &regs) == 0);
        regs.rdi = 0x4000, regs.rsi = 1000 + n;
        CHECK(ioctl(counting[n].v.fd, KVM_SET_REGS, &regs) == 0);
    }
    REFUSED(ioctl(m.vm, KVM_CREATE_VCPU, 1), EEXIST);
    REFUSED(ioctl(m.vm, KVM_CREATE_VCPU, 1 << 20), EINVAL);
    for (int n = 0; n < 2; n++)
        CHECK(pthread_create(&threads[n], NULL, count, &counting[n]) == 0);
    for (int n = 0; n < 2; n++)
        pthread_join(threads[n], NULL);
    for (int n = 0; n < 2; n++) {
        if (counting[n].failure)
            FAIL("vCPU %d: %s", n, counting[n].failure);
        end_vcpu(&m, &counting[n].v);
    }
    CHECK(*(uint64_t *)(m.memory + 0x4000) == 400000);
    end(&m);
}
