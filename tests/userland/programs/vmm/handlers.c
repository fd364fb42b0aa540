// The program's handlers, which are as it set them.
#include "vmm.h"

static sigjmp_buf back;
static void *fault_address;

static atomic_int handled;

static void plain_handler(int number) {
    (void)number;
    handled++;
}

static void fault_handler(int number, siginfo_t *info, void *context) {
    (void)number, (void)context;
    fault_address = info->si_addr;
    siglongjmp(back, 1);
}

void handlers_are_the_programs_own(void) {
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

// Arguments that are not there.
static int are_refused(struct vcpu *v, void *pages) {
    struct kvm_regs regs = {.rflags = 2}, *cut = (void *)((char *)pages + 4096 - 64);
    void *bad[] = {NULL, (void *)8, cut, (char *)pages + 4096, (void *)(1ul << 47), (void *)-64l};
    for (size_t n = 0; n < sizeof bad / sizeof bad[0]; n++) {
        errno = 0;
        if (ioctl(v->fd, KVM_GET_REGS, bad[n]) != -1 || errno != EFAULT)
            return 0;
        errno = 0;
        if (ioctl(v->fd, KVM_SET_REGS, bad[n]) != -1 || errno != EFAULT)
            return 0;
    }
    return ioctl(v->fd, KVM_SET_REGS, &regs) == 0;
}

// How a child ends that does this to itself, whatever it does with the signal: 0 if it does not end so.
static int child_dies(void (*action)(int), int number, volatile char *bad) {
    int status = 0;
    pid_t child = fork();
    if (child == 0) {
        const struct rlimit none = {0, 0};
        setrlimit(RLIMIT_CORE, &none);
        signal(number, action);
        if (bad)
            *bad = 1;
        else
            raise(number);
        _exit(0);
    }
    return waitpid(child, &status, 0) == child && WIFSIGNALED(status) ? WTERMSIG(status) : 0;
}

void an_argument_that_is_not_there_is_no_fault(void) {
    struct machine m = machine();
    struct vcpu v = vcpu(&m, 0);
    char *pages = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(pages != MAP_FAILED && mprotect(pages + 4096, 4096, PROT_NONE) == 0);
    struct sigaction now;
    for (size_t n = 0; n < 2; n++) {
        const int number = n == 0 ? SIGSEGV : SIGBUS;
        // The program sees no handler, and sets what it likes.
        CHECK(sigaction(number, NULL, &now) == 0 && now.sa_handler == SIG_DFL);
        CHECK(are_refused(&v, pages));
        handled = 0;
        CHECK(signal(number, plain_handler) == SIG_DFL && are_refused(&v, pages) && handled == 0);
        CHECK(signal(number, SIG_IGN) == plain_handler && are_refused(&v, pages));
        CHECK(sigaction(number, NULL, &now) == 0 && now.sa_handler == SIG_IGN);
        CHECK(signal(number, SIG_DFL) == SIG_IGN && are_refused(&v, pages));
        // A fault of its own, and a signal that is sent, are what they are.
        CHECK(child_dies(SIG_DFL, number, pages + 4096) == SIGSEGV);
        CHECK(child_dies(SIG_DFL, number, NULL) == number);
        CHECK(child_dies(SIG_IGN, number, pages + 4096) == SIGSEGV);
        CHECK(child_dies(SIG_IGN, number, NULL) == 0);
    }
    // A file that was cut off.
    int file = memfd_create("file", 0);
    CHECK(file >= 0 && ftruncate(file, 4096) == 0);
    void *cut = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    CHECK(cut != MAP_FAILED && ioctl(v.fd, KVM_GET_REGS, cut) == 0 && ftruncate(file, 0) == 0);
    REFUSED(ioctl(v.fd, KVM_GET_REGS, cut), EFAULT);
    munmap(cut, 4096);
    munmap(pages, 8192);
    close(file);
    end_vcpu(&m, &v);
    end(&m);
}
