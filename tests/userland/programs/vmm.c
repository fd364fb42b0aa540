// A VMM in C for the host: each check is a line, `ok NAME` or `FAILED NAME: where and what`.
//
// It knows /dev/kvm as Linux's headers and api.rst have it, and nothing of what is behind. Guests are some bytes of real mode, or of
// 64-bit mode with page tables that map 2 MiB onto itself.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static const char *failure;
static char failure_text[256];

#define FAIL(...)                                                                                  \
    do {                                                                                           \
        if (!failure) {                                                                            \
            int n = snprintf(failure_text, sizeof failure_text, "line %d: ", __LINE__);            \
            snprintf(failure_text + n, sizeof failure_text - n, __VA_ARGS__);                      \
            failure = failure_text;                                                                \
        }                                                                                          \
        return;                                                                                    \
    } while (0)
#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (!(condition))                                                                          \
            FAIL("%s (errno %d)", #condition, errno);                                              \
        if (failure)                                                                               \
            return;                                                                                \
    } while (0)
#define REFUSED(call, number)                                                                      \
    do {                                                                                           \
        errno = 0;                                                                                 \
        long result = (call);                                                                      \
        if (result != -1 || errno != (number))                                                     \
            FAIL("%s: %ld, errno %d, not %s", #call, result, errno, #number);                      \
    } while (0)

#define MEMORY (2u << 20)
#define CODE 0x1000

// A machine with one slot of memory from 0 on.
struct machine {
    int kvm, vm;
    size_t run_size;
    uint8_t *memory;
};

struct vcpu {
    int fd;
    struct kvm_run *run;
};

static struct machine machine(void) {
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

static struct vcpu vcpu(struct machine *m, int id) {
    struct vcpu v = {.fd = ioctl(m->vm, KVM_CREATE_VCPU, id)};
    v.run = mmap(NULL, m->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, v.fd, 0);
    return v;
}

static void end(struct machine *m) {
    close(m->vm);
    close(m->kvm);
    munmap(m->memory, MEMORY);
}

static void end_vcpu(struct machine *m, struct vcpu *v) {
    munmap(v->run, m->run_size);
    close(v->fd);
}

// Puts code at `CODE`, and the vCPU at its start, in real mode.
static void real_mode(struct machine *m, struct vcpu *v, const void *code, size_t size) {
    struct kvm_sregs sregs;
    memcpy(m->memory + CODE, code, size);
    ioctl(v->fd, KVM_GET_SREGS, &sregs);
    sregs.cs.base = sregs.cs.selector = 0;
    ioctl(v->fd, KVM_SET_SREGS, &sregs);
    struct kvm_regs regs = {.rip = CODE, .rsp = 0x8000, .rflags = 2};
    ioctl(v->fd, KVM_SET_REGS, &regs);
}

// The same in 64-bit mode, at an address of its own.
static int long_mode(struct machine *m, struct vcpu *v, uint64_t at, const void *code, size_t size) {
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

// Has the vCPU tell the guest all that there is.
static int all_cpuid(struct machine *m, struct vcpu *v) {
    struct {
        struct kvm_cpuid2 head;
        struct kvm_cpuid_entry2 entries[256];
    } cpuid = {.head.nent = 256};
    if (ioctl(m->kvm, KVM_GET_SUPPORTED_CPUID, &cpuid) != 0)
        return -1;
    return ioctl(v->fd, KVM_SET_CPUID2, &cpuid);
}

// jmp to itself
static const uint8_t SPIN[] = {0xeb, 0xfe};

// -- what is there

static void device(void) {
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

// -- guests

static void real_mode_guest(void) {
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

static void two_vcpus_in_long_mode(void) {
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

// -- signals

// What the C library has the kernel know beside what the program says.
#define RESTORER 0x04000000

static atomic_int handled, told;
static struct kvm_run *immediate;

__attribute__((noinline)) static uint64_t deep(size_t size) {
    volatile char room[192 << 10];
    for (size_t n = 0; n < size; n += 512)
        room[n] = (char)n;
    return room[512];
}

static void plain_handler(int number) {
    deep(192 << 10);
    told = number;
    if (immediate)
        immediate->immediate_exit = 1;
    handled++;
}

static void info_handler(int number, siginfo_t *info, void *context) {
    told = info && context && info->si_signo == number ? number : -1;
    errno = 4711;
    handled++;
}

struct sending {
    pthread_t to;
    int signal, times;
    atomic_int *until;
};

// Sends a signal again and again until it is heard of: the other may not be in KVM_RUN yet.
static void *send_until(void *argument) {
    struct sending *sending = argument;
    while (!*sending->until) {
        pthread_kill(sending->to, sending->signal);
        usleep(2000);
    }
    return NULL;
}

static void handler(int number, void (*handler)(int), int flags) {
    struct sigaction action = {.sa_handler = handler, .sa_flags = flags};
    sigaction(number, &action, NULL);
}

// Runs until a signal ends it.
static void interrupted(struct vcpu *v) {
    atomic_int out = 0;
    struct sending sending = {.to = pthread_self(), .signal = SIGUSR1, .until = &out};
    pthread_t sender;
    handled = told = 0;
    CHECK(pthread_create(&sender, NULL, send_until, &sending) == 0);
    errno = 0;
    int result = ioctl(v->fd, KVM_RUN, 0), number = errno;
    int seen = handled;
    out = 1;
    pthread_join(sender, NULL);
    if (result != -1 || number != EINTR)
        FAIL("KVM_RUN: %d, errno %d", result, number);
    CHECK(seen > 0 && told == SIGUSR1);
    CHECK(v->run->exit_reason == KVM_EXIT_INTR || v->run->immediate_exit);
}

static void a_signal_ends_a_run_after_its_handler(void) {
    struct machine m = machine();
    struct vcpu v = vcpu(&m, 0);
    CHECK(all_cpuid(&m, &v) == 0);
    handler(SIGUSR1, plain_handler, 0);
    real_mode(&m, &v, SPIN, sizeof SPIN);
    interrupted(&v);
    // With SA_RESTART, too: an ioctl is not restarted.
    handler(SIGUSR1, plain_handler, SA_RESTART);
    interrupted(&v);
    // In code that was translated, whose stack pointer is not the thread's.
    const uint8_t busy[] = {0x48, 0xff, 0xc0, 0xeb, 0xfb}; // inc rax; jmp to it
    CHECK(long_mode(&m, &v, 0x3000, busy, sizeof busy) == 0);
    for (int n = 0; n < 20; n++)
        interrupted(&v);
    struct kvm_regs before, after;
    CHECK(ioctl(v.fd, KVM_GET_REGS, &before) == 0);
    // With the information, and the old form.
    struct sigaction action = {.sa_sigaction = info_handler, .sa_flags = SA_SIGINFO};
    CHECK(sigaction(SIGUSR1, &action, NULL) == 0);
    interrupted(&v);
    CHECK(signal(SIGUSR1, plain_handler) == (void *)info_handler);
    interrupted(&v);
    CHECK(ioctl(v.fd, KVM_GET_REGS, &after) == 0);
    CHECK(after.rax > before.rax && after.rip >= 0x3000 && after.rip < 0x3000 + sizeof busy);
    // A signal that others get does nothing here, nor one that came before.
    const uint8_t out[] = {0xe6, 0x80, 0xeb, 0xfc}; // out 0x80, al; jmp to it
    CHECK(long_mode(&m, &v, 0x3000, out, sizeof out) == 0);
    raise(SIGUSR1);
    for (int n = 0; n < 100; n++)
        CHECK(ioctl(v.fd, KVM_RUN, 0) == 0 && v.run->exit_reason == KVM_EXIT_IO);
    end_vcpu(&m, &v);
    end(&m);
}

static void immediate_exit_ends_a_run(void) {
    struct machine m = machine();
    struct vcpu v = vcpu(&m, 0);
    handler(SIGUSR1, plain_handler, 0);
    real_mode(&m, &v, SPIN, sizeof SPIN);
    immediate = v.run;
    interrupted(&v);
    immediate = NULL;
    // As long as it is set.
    CHECK(v.run->immediate_exit == 1);
    for (int n = 0; n < 3; n++)
        REFUSED(ioctl(v.fd, KVM_RUN, 0), EINTR);
    v.run->immediate_exit = 0;
    interrupted(&v);
    end_vcpu(&m, &v);
    end(&m);
}

static void a_signal_wakes_a_halted_vcpu(void) {
    struct machine m = machine();
    CHECK(ioctl(m.vm, KVM_CREATE_IRQCHIP, 0) == 0);
    struct vcpu v = vcpu(&m, 0);
    const uint8_t halt[] = {0xfb, 0xf4, 0xeb, 0xfd}; // sti; hlt; jmp to hlt
    handler(SIGUSR1, plain_handler, SA_RESTART);
    real_mode(&m, &v, halt, sizeof halt);
    for (int n = 0; n < 5; n++)
        interrupted(&v);
    struct kvm_mp_state state;
    CHECK(ioctl(v.fd, KVM_GET_MP_STATE, &state) == 0 && state.mp_state == KVM_MP_STATE_HALTED);
    end_vcpu(&m, &v);
    end(&m);
}

static int handler_fd;
static atomic_int handler_errno;

static void calling_handler(int number) {
    struct kvm_regs regs;
    handler_errno = ioctl(handler_fd, KVM_GET_REGS, &regs) == -1 ? errno : 0;
    told = number;
    handled++;
}

static void a_handler_in_a_run_makes_no_ioctl(void) {
    struct machine m = machine();
    struct vcpu v = vcpu(&m, 0);
    handler(SIGUSR1, calling_handler, 0);
    handler_fd = v.fd;
    raise(SIGUSR1);
    CHECK(handler_errno == 0);
    real_mode(&m, &v, SPIN, sizeof SPIN);
    // The first of them may come before KVM_RUN.
    for (int n = 0; n < 3; n++)
        interrupted(&v);
    CHECK(handler_errno == EBUSY || handler_errno == 0);
    end_vcpu(&m, &v);
    end(&m);
}

// As old VMMs do: blocked outside of KVM_RUN, so that it is pending when that ends.
static void the_signal_mask_of_a_run(void) {
    struct machine m = machine();
    struct vcpu v = vcpu(&m, 0);
    struct {
        struct kvm_signal_mask head;
        uint64_t set;
    } __attribute__((packed)) mask = {.head.len = 8};
    handler(SIGUSR1, plain_handler, 0);
    handled = 0;
    real_mode(&m, &v, SPIN, sizeof SPIN);
    sigset_t usr1, now;
    sigemptyset(&usr1);
    sigaddset(&usr1, SIGUSR1);
    CHECK(pthread_sigmask(SIG_BLOCK, &usr1, NULL) == 0);
    CHECK(ioctl(v.fd, KVM_SET_SIGNAL_MASK, &mask) == 0);
    struct timespec none = {0, 0};
    for (int n = 0; n < 3; n++) {
        pthread_kill(pthread_self(), SIGUSR1);
        REFUSED(ioctl(v.fd, KVM_RUN, 0), EINTR);
        CHECK(handled == 0);
        // It is pending, as it was.
        REFUSED(ioctl(v.fd, KVM_RUN, 0), EINTR);
        // The C library says that SI_TKILL is SI_USER.
        siginfo_t info;
        CHECK(sigtimedwait(&usr1, &info, &none) == SIGUSR1);
        if (info.si_code != SI_USER || info.si_pid != getpid())
            FAIL("code %d, process %d", info.si_code, info.si_pid);
        REFUSED(sigtimedwait(&usr1, NULL, &none), EAGAIN);
    }
    CHECK(pthread_sigmask(SIG_BLOCK, NULL, &now) == 0 && sigismember(&now, SIGUSR1) == 1);
    // Blocked during a run: it does not end it.
    mask.set = 1u << (SIGUSR1 - 1);
    CHECK(ioctl(v.fd, KVM_SET_SIGNAL_MASK, &mask) == 0);
    const uint8_t out[] = {0xe6, 0x80, 0xeb, 0xfc};
    real_mode(&m, &v, out, sizeof out);
    pthread_kill(pthread_self(), SIGUSR1);
    CHECK(ioctl(v.fd, KVM_RUN, 0) == 0 && v.run->exit_reason == KVM_EXIT_IO && handled == 0);
    // None: the thread's own.
    CHECK(ioctl(v.fd, KVM_SET_SIGNAL_MASK, NULL) == 0);
    CHECK(ioctl(v.fd, KVM_RUN, 0) == 0 && handled == 0);
    CHECK(pthread_sigmask(SIG_UNBLOCK, &usr1, NULL) == 0 && handled == 1);
    mask.head.len = 4;
    REFUSED(ioctl(v.fd, KVM_SET_SIGNAL_MASK, &mask), EINVAL);
    REFUSED(ioctl(v.fd, KVM_SET_SIGNAL_MASK, 8), EFAULT);
    end_vcpu(&m, &v);
    end(&m);
}

static sigjmp_buf back;
static void *fault_address;

static void fault_handler(int number, siginfo_t *info, void *context) {
    (void)number, (void)context;
    fault_address = info->si_addr;
    siglongjmp(back, 1);
}

static void handlers_are_the_programs_own(void) {
    struct sigaction action = {.sa_sigaction = fault_handler, .sa_flags = SA_SIGINFO | SA_ONSTACK};
    struct sigaction old, got;
    sigaddset(&action.sa_mask, SIGUSR2);
    stack_t stack = {.ss_sp = malloc(64 << 10), .ss_size = 64 << 10};
    CHECK(sigaltstack(&stack, NULL) == 0);
    CHECK(sigaction(SIGSEGV, &action, &old) == 0);
    CHECK(sigaction(SIGSEGV, NULL, &got) == 0);
    CHECK(got.sa_sigaction == fault_handler && (got.sa_flags & ~RESTORER) == (SA_SIGINFO | SA_ONSTACK));
    CHECK(sigismember(&got.sa_mask, SIGUSR2) && !sigismember(&got.sa_mask, SIGUSR1));
    for (int n = 0; n < 3; n++) {
        volatile char *bad = (char *)0x10000 + n;
        fault_address = NULL;
        if (sigsetjmp(back, 1) == 0) {
            *bad = 1;
            FAIL("it did not fault");
        }
        CHECK(fault_address == bad);
    }
    CHECK(sigaction(SIGSEGV, &old, &got) == 0 && got.sa_sigaction == fault_handler);
    CHECK(sigaction(SIGSEGV, NULL, &got) == 0 && got.sa_handler == old.sa_handler);
    stack.ss_flags = SS_DISABLE;
    CHECK(sigaltstack(&stack, NULL) == 0);
    // Without the information, and once.
    action = (struct sigaction){.sa_handler = plain_handler, .sa_flags = SA_RESETHAND};
    handled = 0;
    CHECK(sigaction(SIGUSR2, &action, NULL) == 0 && sigaction(SIGUSR2, NULL, &got) == 0);
    CHECK(got.sa_handler == plain_handler && (got.sa_flags & ~RESTORER) == (int)SA_RESETHAND);
    raise(SIGUSR2);
    CHECK(handled == 1 && sigaction(SIGUSR2, NULL, &got) == 0 && got.sa_handler == SIG_DFL);
    CHECK(signal(SIGUSR2, SIG_IGN) == SIG_DFL && signal(SIGUSR2, plain_handler) == SIG_IGN);
    CHECK(sigaction(SIGUSR2, NULL, &got) == 0 && (got.sa_flags & ~RESTORER) == SA_RESTART);
    raise(SIGUSR2);
    CHECK(handled == 2 && signal(SIGUSR2, SIG_DFL) == plain_handler);
    REFUSED((long)signal(SIGKILL, plain_handler), EINVAL);
    REFUSED(sigaction(1000, &action, NULL), EINVAL);
    REFUSED(sigaction(0, &action, NULL), EINVAL);
}

// -- descriptors

static void copies_are_the_same(void) {
    struct machine m = machine();
    struct vcpu v = vcpu(&m, 0);
    struct kvm_regs regs = {.rax = 4711, .rflags = 2}, got;
    CHECK(ioctl(v.fd, KVM_SET_REGS, &regs) == 0);
    int copies[] = {dup(v.fd), dup2(v.fd, 200), dup3(v.fd, 201, O_CLOEXEC),
                    fcntl(v.fd, F_DUPFD, 300), fcntl(v.fd, F_DUPFD_CLOEXEC, 300)};
    CHECK(copies[1] == 200 && copies[2] == 201 && copies[3] == 300 && copies[4] == 301);
    close(v.fd);
    REFUSED(ioctl(v.fd, KVM_GET_REGS, &got), EBADF);
    for (int n = 0; n < 5; n++) {
        CHECK(copies[n] >= 0 && ioctl(copies[n], KVM_GET_REGS, &got) == 0 && got.rax == 4711);
        if (n != 1) {
            CHECK(close(copies[n]) == 0);
            REFUSED(ioctl(copies[n], KVM_GET_REGS, &got), EBADF);
            REFUSED(close(copies[n]), EBADF);
        }
    }
    // Another file in its place.
    int null = open("/dev/null", O_RDWR);
    CHECK(dup2(null, 200) == 200);
    REFUSED(ioctl(200, KVM_GET_REGS, &got), ENOTTY);
    CHECK(write(200, "x", 1) == 1);
    // And it in another's.
    CHECK(dup2(m.vm, 200) == 200 && dup2(m.vm, m.vm) == m.vm);
    CHECK(ioctl(200, KVM_CHECK_EXTENSION, KVM_CAP_USER_MEMORY) == 1);
    REFUSED(dup2(m.vm, -1), EBADF);
    REFUSED(dup3(m.vm, m.vm, 0), EINVAL);
    REFUSED(dup(9999), EBADF);
    CHECK(close_range(200, 310, 0) == 0);
    REFUSED(ioctl(200, KVM_CHECK_EXTENSION, KVM_CAP_USER_MEMORY), EBADF);
    CHECK(close_range(m.vm, m.vm, CLOSE_RANGE_CLOEXEC) == 0);
    CHECK(ioctl(m.vm, KVM_CHECK_EXTENSION, KVM_CAP_USER_MEMORY) == 1);
    close(null);
    munmap(v.run, m.run_size);
    end(&m);
}

static void a_vm_lives_as_long_as_its_vcpu(void) {
    struct machine m = machine();
    struct vcpu v = vcpu(&m, 0), other = vcpu(&m, 1);
    const uint8_t out[] = {0xe6, 0x80, 0xeb, 0xfc};
    real_mode(&m, &v, out, sizeof out);
    CHECK(close(m.vm) == 0 && close(m.kvm) == 0);
    end_vcpu(&m, &other);
    for (int n = 0; n < 5; n++)
        CHECK(ioctl(v.fd, KVM_RUN, 0) == 0 && v.run->exit_reason == KVM_EXIT_IO);
    // The memory that it shares outlives it.
    CHECK(close(v.fd) == 0);
    CHECK(v.run->exit_reason == KVM_EXIT_IO && v.run->io.port == 0x80);
    munmap(v.run, m.run_size);
    munmap(m.memory, MEMORY);
}

static void each_kind_has_its_own_calls(void) {
    struct machine m = machine();
    struct vcpu v = vcpu(&m, 0);
    struct kvm_regs regs;
    REFUSED(ioctl(m.vm, KVM_RUN, 0), ENOTTY);
    REFUSED(ioctl(m.vm, KVM_GET_REGS, &regs), ENOTTY);
    REFUSED(ioctl(m.vm, KVM_CREATE_VM, 0), ENOTTY);
    REFUSED(ioctl(v.fd, KVM_CREATE_VCPU, 1), EINVAL);
    REFUSED(ioctl(v.fd, KVM_GET_API_VERSION, 0), EINVAL);
    REFUSED(ioctl(v.fd, KVM_CREATE_IRQCHIP, 0), EINVAL);
    // The device says so, as Linux's.
    REFUSED(ioctl(m.kvm, KVM_RUN, 0), EINVAL);
    REFUSED(ioctl(m.kvm, KVM_CREATE_VCPU, 0), EINVAL);
    REFUSED(ioctl(v.fd, KVM_RUN, 1), EINVAL);
    // Bad addresses.
    REFUSED(ioctl(v.fd, KVM_GET_REGS, 0), EFAULT);
    REFUSED(ioctl(v.fd, KVM_SET_REGS, 8), EFAULT);
    REFUSED(ioctl(v.fd, KVM_SET_SREGS, -1l), EFAULT);
    REFUSED(ioctl(v.fd, KVM_GET_REGS, 1ul << 62), EFAULT);
    REFUSED(ioctl(m.vm, KVM_SET_USER_MEMORY_REGION, 1), EFAULT);
    REFUSED(ioctl(m.kvm, KVM_GET_SUPPORTED_CPUID, 1), EFAULT);
    void *read_only = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    REFUSED(ioctl(v.fd, KVM_GET_REGS, read_only), EFAULT);
    CHECK(ioctl(v.fd, KVM_SET_REGS, read_only) == 0);
    // What it shares has an end.
    CHECK(m.run_size == 3 * 4096 && ((char *)v.run)[m.run_size - 1] == 0);
    REFUSED(ftruncate(v.fd, 0), EPERM);
    end_vcpu(&m, &v);
    end(&m);
}

static int child_fails(pid_t child) {
    int status;
    return waitpid(child, &status, 0) != child || !WIFEXITED(status) || WEXITSTATUS(status) != 0;
}

static void a_child_has_none_of_it(void) {
    struct machine m = machine();
    struct vcpu v = vcpu(&m, 0);
    const uint8_t out[] = {0xe6, 0x80, 0xeb, 0xfc};
    real_mode(&m, &v, out, sizeof out);
    pid_t child = fork();
    if (child == 0) {
        struct kvm_regs regs;
        int wrong = 0;
        wrong |= ioctl(v.fd, KVM_RUN, 0) != -1 || errno != EIO ? 1 : 0;
        wrong |= ioctl(v.fd, KVM_GET_REGS, &regs) != -1 || errno != EIO ? 2 : 0;
        wrong |= ioctl(m.vm, KVM_CREATE_VCPU, 1) != -1 || errno != EIO ? 4 : 0;
        wrong |= ioctl(m.kvm, KVM_GET_API_VERSION, 0) != -1 || errno != EIO ? 8 : 0;
        close(v.fd), close(m.vm), close(m.kvm);
        // What it opens itself is its own.
        struct machine own = machine();
        struct vcpu vcpu_of_own = vcpu(&own, 0);
        real_mode(&own, &vcpu_of_own, out, sizeof out);
        wrong |= ioctl(vcpu_of_own.fd, KVM_RUN, 0) != 0 ? 16 : 0;
        _exit(wrong);
    }
    CHECK(!child_fails(child));
    CHECK(ioctl(v.fd, KVM_RUN, 0) == 0 && v.run->exit_reason == KVM_EXIT_IO);
    // Nor has what a child executes.
    char number[16];
    snprintf(number, sizeof number, "%d", dup(v.fd));
    child = vfork();
    if (child == 0) {
        execl("/proc/self/exe", "vmm", "--is-closed", number, (char *)NULL);
        _exit(99);
    }
    CHECK(!child_fails(child));
    end_vcpu(&m, &v);
    end(&m);
}

// -- what is read, and what vCPUs share

static uint64_t statistic(int fd, const char *name) {
    struct kvm_stats_header header;
    char buffer[sizeof(struct kvm_stats_desc) + 256];
    struct kvm_stats_desc *description = (void *)buffer;
    uint64_t value = -1;
    if (pread(fd, &header, sizeof header, 0) != sizeof header || header.name_size > 256)
        return -1;
    size_t size = sizeof *description + header.name_size;
    for (uint32_t n = 0; n < header.num_desc; n++)
        if (pread(fd, buffer, size, header.desc_offset + n * size) == (ssize_t)size &&
            strcmp(description->name, name) == 0)
            pread(fd, &value, sizeof value, header.data_offset + description->offset);
    return value;
}

static void statistics_are_those_of_now(void) {
    struct machine m = machine();
    struct vcpu v = vcpu(&m, 0);
    int fd = ioctl(v.fd, KVM_GET_STATS_FD, 0), of_vm = ioctl(m.vm, KVM_GET_STATS_FD, 0);
    CHECK(fd >= 0 && of_vm >= 0 && fd != of_vm);
    CHECK(statistic(fd, "io_exits") == 0);
    const uint8_t out[] = {0xe6, 0x80, 0xe6, 0x80, 0xeb, 0xfc};
    real_mode(&m, &v, out, sizeof out);
    for (int n = 1; n < 4; n++) {
        CHECK(ioctl(v.fd, KVM_RUN, 0) == 0 && v.run->exit_reason == KVM_EXIT_IO);
        CHECK(statistic(fd, "io_exits") == (uint64_t)n);
    }
    // With an offset of its own, and an end.
    char header[sizeof(struct kvm_stats_header)], again[sizeof header], rest[64 * 1024];
    CHECK(read(fd, header, sizeof header) == sizeof header);
    CHECK(pread(fd, again, sizeof again, 0) == sizeof again);
    CHECK(memcmp(header, again, sizeof header) == 0);
    CHECK(read(fd, rest, sizeof rest) > 0 && read(fd, rest, sizeof rest) == 0);
    CHECK(statistic(of_vm, "remote_tlb_flush") != (uint64_t)-1);
    REFUSED(ioctl(fd, KVM_GET_STATS_FD, 0), ENOTTY);
    CHECK(write(fd, "x", 1) == -1);
    // They live longer than what they are of.
    end_vcpu(&m, &v);
    end(&m);
    CHECK(statistic(fd, "io_exits") == 3);
    close(fd);
    close(of_vm);
}

static void writes_that_wait_are_in_each_vcpus_ring(void) {
    struct machine m = machine();
    struct vcpu one = vcpu(&m, 0), two = vcpu(&m, 1);
    struct kvm_coalesced_mmio_zone zone = {.addr = 0x90, .size = 1, .pio = 1};
    int page = ioctl(m.kvm, KVM_CHECK_EXTENSION, KVM_CAP_COALESCED_MMIO);
    CHECK(page > 0 && ioctl(m.vm, KVM_REGISTER_COALESCED_MMIO, &zone) == 0);
    // mov al, 5; out 0x90, al; out 0x80, al
    const uint8_t out[] = {0xb0, 5, 0xe6, 0x90, 0xe6, 0x80};
    struct vcpu *both[] = {&one, &two};
    for (int n = 0; n < 2; n++) {
        real_mode(&m, both[n], out, sizeof out);
        CHECK(ioctl(both[n]->fd, KVM_RUN, 0) == 0 && both[n]->run->exit_reason == KVM_EXIT_IO);
        CHECK(both[n]->run->io.port == 0x80);
        for (int seen = 0; seen < 2; seen++) {
            struct kvm_coalesced_mmio_ring *ring = (void *)((char *)both[seen]->run + page * 4096);
            CHECK(ring->first == 0 && ring->last == (uint32_t)n + 1);
            CHECK(ring->coalesced_mmio[n].phys_addr == 0x90 && ring->coalesced_mmio[n].len == 1);
            CHECK(ring->coalesced_mmio[n].data[0] == 5 && ring->coalesced_mmio[n].pio == 1);
        }
    }
    // Mapped by itself, and of another machine.
    struct kvm_coalesced_mmio_ring *alone =
        mmap(NULL, 4096, PROT_READ, MAP_SHARED, two.fd, page * 4096);
    CHECK(alone != MAP_FAILED && alone->last == 2);
    munmap(alone, 4096);
    struct machine other = machine();
    struct vcpu its = vcpu(&other, 0);
    CHECK(((struct kvm_coalesced_mmio_ring *)((char *)its.run + page * 4096))->last == 0);
    end_vcpu(&other, &its);
    end(&other);
    end_vcpu(&m, &one);
    end_vcpu(&m, &two);
    end(&m);
}

// -- many at once

static atomic_int shared_fd, stop;
static atomic_long answered, refused;

static void *ask(void *argument) {
    (void)argument;
    struct kvm_regs regs;
    while (!stop) {
        if (ioctl(shared_fd, KVM_GET_REGS, &regs) == 0)
            answered++;
        else if (errno == EBADF || errno == ENOTTY)
            refused++;
        else
            stop = 2;
    }
    return NULL;
}

static void descriptors_come_and_go_under_calls(void) {
    struct machine m = machine();
    struct vcpu v = vcpu(&m, 0);
    pthread_t threads[3];
    shared_fd = 250;
    stop = 0;
    for (int n = 0; n < 3; n++)
        CHECK(pthread_create(&threads[n], NULL, ask, NULL) == 0);
    for (int n = 0; n < 20000 && !stop; n++) {
        CHECK(dup2(v.fd, 250) == 250);
        CHECK(close(250) == 0);
    }
    // Until each way was seen.
    for (int n = 0; n < 1000 && !(answered && refused); n++) {
        dup2(v.fd, 250);
        usleep(1000);
        close(250);
        usleep(1000);
    }
    int stopped = stop;
    stop = 1;
    for (int n = 0; n < 3; n++)
        pthread_join(threads[n], NULL);
    CHECK(stopped == 0 && answered > 0 && refused > 0);
    struct kvm_regs regs;
    CHECK(ioctl(v.fd, KVM_GET_REGS, &regs) == 0);
    end_vcpu(&m, &v);
    end(&m);
}

static int threads_now(void) {
    char line[256];
    int count = -1;
    FILE *status = fopen("/proc/self/status", "r");
    while (status && fgets(line, sizeof line, status))
        if (sscanf(line, "Threads: %d", &count) == 1)
            break;
    if (status)
        fclose(status);
    return count;
}

static void nothing_is_left_of_many_machines(void) {
    struct timespec now, start;
    int before = threads_now();
    for (int n = 0; n < 40; n++) {
        struct machine m = machine();
        struct vcpu v = vcpu(&m, 0);
        const uint8_t out[] = {0xe6, 0x80, 0xeb, 0xfc};
        real_mode(&m, &v, out, sizeof out);
        CHECK(ioctl(v.fd, KVM_RUN, 0) == 0 && v.run->exit_reason == KVM_EXIT_IO);
        end_vcpu(&m, &v);
        end(&m);
    }
    // Their threads end when they see it.
    clock_gettime(CLOCK_MONOTONIC, &start);
    do {
        usleep(10000);
        clock_gettime(CLOCK_MONOTONIC, &now);
    } while (threads_now() > before && now.tv_sec - start.tv_sec < 20);
    CHECK(threads_now() <= before);
}

// -- what it costs

static void cost(void) {
    struct machine m = machine();
    struct vcpu v = vcpu(&m, 0);
    struct kvm_regs regs;
    struct timespec start, now;
    const int rounds = 200000;
    double best = 1e9;
    for (int n = 0; n < 5; n++) {
        clock_gettime(CLOCK_MONOTONIC, &start);
        for (int round = 0; round < rounds; round++)
            CHECK(ioctl(v.fd, KVM_GET_REGS, &regs) == 0);
        clock_gettime(CLOCK_MONOTONIC, &now);
        double took = (now.tv_sec - start.tv_sec) * 1e9 + (now.tv_nsec - start.tv_nsec);
        best = took / rounds < best ? took / rounds : best;
    }
    printf("KVM_GET_REGS: %.0f ns\n", best);
    end_vcpu(&m, &v);
    end(&m);
}

#define CASE(name) {#name, name}
static const struct {
    const char *name;
    void (*run)(void);
} CASES[] = {
    CASE(device),
    CASE(real_mode_guest),
    CASE(two_vcpus_in_long_mode),
    CASE(a_signal_ends_a_run_after_its_handler),
    CASE(immediate_exit_ends_a_run),
    CASE(a_signal_wakes_a_halted_vcpu),
    CASE(a_handler_in_a_run_makes_no_ioctl),
    CASE(the_signal_mask_of_a_run),
    CASE(handlers_are_the_programs_own),
    CASE(copies_are_the_same),
    CASE(a_vm_lives_as_long_as_its_vcpu),
    CASE(each_kind_has_its_own_calls),
    CASE(a_child_has_none_of_it),
    CASE(statistics_are_those_of_now),
    CASE(writes_that_wait_are_in_each_vcpus_ring),
    CASE(descriptors_come_and_go_under_calls),
    CASE(nothing_is_left_of_many_machines),
    CASE(cost),
};

int main(int count, char **arguments) {
    int failures = 0;
    if (count == 3 && strcmp(arguments[1], "--is-closed") == 0)
        return fcntl(atoi(arguments[2]), F_GETFD) == -1 && errno == EBADF ? 0 : 1;
    setvbuf(stdout, NULL, _IOLBF, 0);
    for (size_t n = 0; n < sizeof CASES / sizeof CASES[0]; n++) {
        if (count > 1 && strcmp(arguments[1], CASES[n].name) != 0)
            continue;
        failure = NULL;
        CASES[n].run();
        if (failure)
            printf("FAILED %s: %s\n", CASES[n].name, failure), failures++;
        else
            printf("ok %s\n", CASES[n].name);
    }
    return failures != 0;
}
