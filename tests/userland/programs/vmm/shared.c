// What is read of descriptors, and what vCPUs share.
#include "vmm.h"

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

void statistics_are_those_of_now(void) {
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

void writes_that_wait_are_in_each_vcpus_ring(void) {
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
