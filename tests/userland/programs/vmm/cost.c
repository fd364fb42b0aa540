// What a call costs.
#include "vmm.h"

void cost(void) {
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
