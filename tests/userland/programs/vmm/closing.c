// A program that closes all that it does not know, while its machine has events.
#include "vmm.h"

#define LINE 5
#define VECTOR 0x25
#define HANDLER 0x40

// Has the 8259 give `VECTOR` for `LINE`, tells port 0x81, and halts again and again.
static const uint8_t HALT[HANDLER] = {
    0xb0, 0x11, 0xe6, 0x20, // ICW1: mov al, 0x11; out 0x20, al
    0xb0, 0x20, 0xe6, 0x21, // ICW2: vectors from 0x20 on
    0xb0, 0x04, 0xe6, 0x21, // ICW3
    0xb0, 0x01, 0xe6, 0x21, // ICW4
    0xb0, 0x00, 0xe6, 0x21, // OCW1: no line is masked
    0xe6, 0x81,             // out 0x81, al
    0xfb,                   // again: sti
    0xf4,                   // hlt
    0xeb, 0xfc,             // jmp again
};

// At each interrupt: tells port 0x90, which an eventfd is for, and then port 0x80.
static const uint8_t INTERRUPT[] = {
    0xe6, 0x90,             // out 0x90, al
    0xb0, 0x20, 0xe6, 0x20, // end of interrupt: mov al, 0x20; out 0x20, al
    0xe6, 0x80,             // out 0x80, al
    0xcf,                   // iret
};

static void no_more_waiting(int number) {
    (void)number;
}

static int exits_at(struct vcpu *v, int port) {
    return ioctl(v->fd, KVM_RUN, 0) == 0 && v->run->exit_reason == KVM_EXIT_IO &&
           v->run->io.port == port;
}

// What closes all numbers from `first` on; `known` are those of the program's.
typedef int closes(int first, const int *known);

static int by_range(int first, const int *known) {
    (void)known;
    return close_range(first, ~0u, 0);
}

static int from(int first, const int *known) {
    (void)known;
    closefrom(first);
    return 0;
}

static int one_by_one(int first, const int *known) {
    (void)first;
    for (int n = 3; n < 1024; n++) {
        int is_known = 0;
        for (const int *one = known; *one >= 0; one++)
            is_known |= *one == n;
        if (!is_known && close(n) != 0 && errno != EBADF)
            return -1;
    }
    return 0;
}

static int for_this_thread(int first, const int *known) {
    (void)known;
    return close_range(first, ~0u, CLOSE_RANGE_UNSHARE);
}

static int at_exec(int first, const int *known) {
    (void)known;
    return close_range(first, ~0u, CLOSE_RANGE_CLOEXEC);
}

static void keeps_its_events(closes *close_all) {
    struct machine m = machine();
    CHECK(ioctl(m.vm, KVM_CREATE_IRQCHIP, 0) == 0);
    struct vcpu v = vcpu(&m, 0);
    real_mode(&m, &v, HALT, sizeof HALT);
    memcpy(m.memory + CODE + HANDLER, INTERRUPT, sizeof INTERRUPT);
    const uint16_t entry[] = {CODE + HANDLER, 0};
    memcpy(m.memory + 4 * VECTOR, entry, sizeof entry);
    const int known[] = {m.kvm, m.vm, v.fd, eventfd(0, EFD_NONBLOCK), eventfd(0, EFD_NONBLOCK), -1};
    int in = known[3], out = known[4], highest = 0;
    for (const int *one = known; *one >= 0; one++)
        highest = *one > highest ? *one : highest;
    struct kvm_irqfd irqfd = {.fd = in, .gsi = LINE};
    struct kvm_ioeventfd ioeventfd = {
        .addr = 0x90, .len = 1, .fd = out, .flags = KVM_IOEVENTFD_FLAG_PIO};
    CHECK(ioctl(m.vm, KVM_IRQFD, &irqfd) == 0 && ioctl(m.vm, KVM_IOEVENTFD, &ioeventfd) == 0);
    CHECK(exits_at(&v, 0x81));
    // The next number, and one that is far from it.
    int other = open("/dev/null", O_RDWR), stays = close_all == at_exec;
    CHECK(other >= 0 && dup2(other, 900) == 900);
    CHECK(close_all(highest + 1, known) == 0);
    CHECK((fcntl(other, F_GETFD) == -1) == !stays && (fcntl(900, F_GETFD) == -1) == !stays);
    // What is lost would be waited for.
    struct sigaction action = {.sa_handler = no_more_waiting};
    sigaction(SIGALRM, &action, NULL);
    alarm(10);
    for (int n = 0; n < 10; n++) {
        uint64_t count = 1;
        CHECK(write(in, &count, sizeof count) == sizeof count);
        CHECK(exits_at(&v, 0x80));
        CHECK(read(out, &count, sizeof count) == sizeof count && count == 1);
    }
    alarm(0);
    if (stays)
        close(other), close(900);
    close(in), close(out);
    end_vcpu(&m, &v);
    end(&m);
}

void events_outlive_closing_all(void) {
    REFUSED(close_range(4, 3, 0), EINVAL);
    REFUSED(close_range(3, ~0u, 1 << 30), EINVAL);
    closes *each[] = {by_range, from, one_by_one, at_exec};
    for (size_t n = 0; n < sizeof each / sizeof each[0] && !failure; n++)
        keeps_its_events(each[n]);
    CHECK(!failure);
    // A child has copies of descriptors that are nothing to it, and makes its own.
    struct machine m = machine();
    int in = eventfd(0, 0);
    struct kvm_irqfd irqfd = {.fd = in, .gsi = LINE};
    CHECK(ioctl(m.vm, KVM_CREATE_IRQCHIP, 0) == 0 && ioctl(m.vm, KVM_IRQFD, &irqfd) == 0);
    pid_t child = fork();
    if (child == 0) {
        keeps_its_events(by_range);
        keeps_its_events(for_this_thread);
        if (failure)
            printf("in the child: %s\n", failure);
        fflush(stdout);
        _exit(failure != NULL);
    }
    CHECK(!child_fails(child));
    close(in);
    end(&m);
}
