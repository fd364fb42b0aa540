// Signals, and what else ends a run.
#include "vmm.h"

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

void a_signal_ends_a_run_after_its_handler(void) {
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

void immediate_exit_ends_a_run(void) {
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

void a_signal_wakes_a_halted_vcpu(void) {
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

void a_handler_in_a_run_makes_no_ioctl(void) {
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
// The same of one that the program does not handle, whose default is to end the process, or to be ignored.
static void without_a_handler(struct machine *m, struct vcpu *v, int number, void *action) {
    struct {
        struct kvm_signal_mask head;
        uint64_t set;
    } __attribute__((packed)) mask = {.head.len = 8};
    struct timespec none = {0, 0};
    struct sigaction now;
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, number);
    CHECK(signal(number, action) == SIG_DFL);
    real_mode(m, v, SPIN, sizeof SPIN);
    CHECK(ioctl(v->fd, KVM_SET_SIGNAL_MASK, &mask) == 0);
    CHECK(pthread_sigmask(SIG_BLOCK, &set, NULL) == 0);
    for (int n = 0; n < 3; n++) {
        pthread_kill(pthread_self(), number);
        REFUSED(ioctl(v->fd, KVM_RUN, 0), EINTR);
        CHECK(sigtimedwait(&set, NULL, &none) == number);
        REFUSED(sigtimedwait(&set, NULL, &none), EAGAIN);
    }
    CHECK(sigaction(number, NULL, &now) == 0 && now.sa_handler == action);
    CHECK((now.sa_flags & ~RESTORER) == SA_RESTART || (now.sa_flags & ~RESTORER) == 0);
    CHECK(pthread_sigmask(SIG_UNBLOCK, &set, NULL) == 0);
    // It is what it was where nothing runs.
    int status, ends = number != SIGWINCH && action == SIG_DFL;
    pid_t child = fork();
    if (child == 0) {
        raise(number);
        _exit(0);
    }
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(ends ? WIFSIGNALED(status) && WTERMSIG(status) == number : status == 0);
    CHECK(signal(number, SIG_DFL) == action);
    CHECK(ioctl(v->fd, KVM_SET_SIGNAL_MASK, NULL) == 0);
}

void a_signal_without_a_handler_ends_a_run(void) {
    struct machine m = machine();
    struct vcpu v = vcpu(&m, 0);
    without_a_handler(&m, &v, SIGUSR2, SIG_DFL);
    without_a_handler(&m, &v, SIGRTMIN + 3, SIG_DFL);
    without_a_handler(&m, &v, SIGWINCH, SIG_DFL);
    without_a_handler(&m, &v, SIGHUP, SIG_IGN);
    end_vcpu(&m, &v);
    end(&m);
}

void the_signal_mask_of_a_run(void) {
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
