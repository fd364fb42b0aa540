// Copies and ends of descriptors, and processes.
#include "vmm.h"

void copies_are_the_same(void) {
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

void a_vm_lives_as_long_as_its_vcpu(void) {
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

void each_kind_has_its_own_calls(void) {
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

// Sends a descriptor, with another one before it. Gives what `sendmsg` does, or `sendmmsg`.
static int sent(int socket, int number, int many) {
    char byte = 1, control[CMSG_SPACE(2 * sizeof(int))] = {0};
    struct iovec data = {&byte, 1};
    struct mmsghdr both[2] = {{.msg_hdr = {.msg_iov = &data, .msg_iovlen = 1}}};
    both[1].msg_hdr = both[0].msg_hdr;
    struct msghdr *message = &both[many].msg_hdr;
    message->msg_control = control, message->msg_controllen = sizeof control;
    struct cmsghdr *part = CMSG_FIRSTHDR(message);
    part->cmsg_level = SOL_SOCKET, part->cmsg_type = SCM_RIGHTS;
    part->cmsg_len = CMSG_LEN(2 * sizeof(int));
    const int numbers[] = {STDIN_FILENO, number};
    memcpy(CMSG_DATA(part), numbers, sizeof numbers);
    return many ? sendmmsg(socket, both, 2, 0) : sendmsg(socket, message, 0);
}

void a_descriptor_is_not_sent(void) {
    struct machine m = machine();
    struct vcpu v = vcpu(&m, 0);
    int pair[2], seen = memfd_create("stderr", 0), before = dup(STDERR_FILENO);
    CHECK(socketpair(AF_UNIX, SOCK_DGRAM, 0, pair) == 0 && dup2(seen, STDERR_FILENO) >= 0);
    const int ours[] = {m.kvm, m.vm, v.fd};
    int wrong = 0;
    for (size_t n = 0; n < 6; n++)
        wrong |= sent(pair[0], ours[n % 3], n / 3) != -1 || errno != EOPNOTSUPP;
    wrong |= sent(pair[0], seen, 0) != 1 || sent(pair[0], seen, 1) != 2;
    wrong |= sendmsg(pair[0], (void *)8, 0) != -1 || errno != EFAULT;
    dup2(before, STDERR_FILENO);
    char told[1024] = {0};
    CHECK(!wrong && pread(seen, told, sizeof told - 1, 0) > 0);
    int lines = 0;
    for (char *line = told; (line = strstr(line, "cannot send a descriptor of /dev/kvm")); line++)
        lines++;
    CHECK(lines == 6);
    struct kvm_regs regs;
    CHECK(ioctl(v.fd, KVM_GET_REGS, &regs) == 0);
    close(pair[0]), close(pair[1]), close(seen), close(before);
    end_vcpu(&m, &v);
    end(&m);
}

int child_fails(pid_t child) {
    int status;
    if (waitpid(child, &status, 0) != child)
        return 1;
    if (status != 0)
        printf("the child's status is %#x\n", status);
    return status != 0;
}

void a_child_has_none_of_it(void) {
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
