// Many calls and machines at once.
#include "vmm.h"

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

void descriptors_come_and_go_under_calls(void) {
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

void nothing_is_left_of_many_machines(void) {
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
