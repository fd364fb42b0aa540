// Rings of dirty pages, which the VMM collects while the guest runs.
#include "vmm.h"

#define ENTRIES 1024u
#define RESERVED (64u + 512u)
#define LOGGED 0x10000000ul
#define PAGES 2048u

// Fills memory from `LOGGED` on by one instruction, tells port 0x80, writes to each page, tells it, and again.
static const uint8_t WRITE[] = {
    0xbb, 0x01, 0x00, 0x00, 0x00,       // mov ebx, 1
    0xbf, 0x00, 0x00, 0x00, 0x10,       // again: mov edi, LOGGED
    0xb9, 0x00, 0x00, 0x80, 0x00,       // mov ecx, PAGES * 4096
    0x88, 0xd8,                         // mov al, bl
    0xf3, 0xaa,                         // rep stosb
    0xe6, 0x80,                         // out 0x80, al
    0xff, 0xc3,                         // inc ebx
    0xbf, 0x00, 0x00, 0x00, 0x10,       // mov edi, LOGGED
    0xb9, 0x00, 0x08, 0x00, 0x00,       // mov ecx, PAGES
    0x88, 0x1f,                         // page: mov [rdi], bl
    0x81, 0xc7, 0x00, 0x10, 0x00, 0x00, // add edi, 4096
    0xff, 0xc9,                         // dec ecx
    0x75, 0xf4,                         // jnz page
    0xe6, 0x80,                         // out 0x80, al
    0xff, 0xc3,                         // inc ebx
    0xeb, 0xd2,                         // jmp again
};

static volatile struct kvm_dirty_gfn *ring;
static uint32_t next;
static uint8_t seen[PAGES];

// Collects what is there. Gives how many pages, or -1 if one is none of the slot's.
static int collect(void) {
    int count = 0;
    for (;; next++, count++) {
        volatile struct kvm_dirty_gfn *gfn = &ring[next % ENTRIES];
        if (__atomic_load_n(&gfn->flags, __ATOMIC_ACQUIRE) != KVM_DIRTY_GFN_F_DIRTY)
            return count;
        if (gfn->slot != 7 || gfn->offset >= PAGES)
            return -1;
        seen[gfn->offset]++;
        __atomic_store_n(&gfn->flags, KVM_DIRTY_GFN_F_RESET, __ATOMIC_RELEASE);
    }
}

// Runs until the port is told, and collects meanwhile. Gives how many times the ring was full, or -1.
static int run(struct machine *m, struct vcpu *v) {
    int full = 0;
    while (ioctl(v->fd, KVM_RUN, 0) == 0) {
        int count = collect();
        if (count < 0 || ioctl(m->vm, KVM_RESET_DIRTY_RINGS, 0) != count)
            return -1;
        if (v->run->exit_reason == KVM_EXIT_IO)
            return full;
        if (v->run->exit_reason != KVM_EXIT_DIRTY_RING_FULL || count < (int)(ENTRIES - RESERVED))
            return -1;
        full++;
    }
    return -1;
}

// Whether each page was seen; again only those that were being written when the ring was full.
static int each_was_seen(int full) {
    int again = 0;
    for (size_t n = 0; n < PAGES; n++) {
        if (seen[n] == 0)
            return 0;
        again += seen[n] - 1;
    }
    memset(seen, 0, sizeof seen);
    return again <= full;
}

void dirty_pages_come_in_rings(void) {
    struct machine m = machine();
    const size_t bytes = ENTRIES * sizeof *ring;
    CHECK(ioctl(m.vm, KVM_CHECK_EXTENSION, KVM_CAP_DIRTY_LOG_RING) == 65536 * 16);
    REFUSED(ioctl(m.vm, KVM_RESET_DIRTY_RINGS, 0), EINVAL);
    struct kvm_enable_cap cap = {.cap = KVM_CAP_DIRTY_LOG_RING};
    const uint64_t bad[][2] = {{0, EINVAL}, {4096, EINVAL}, {bytes + 4096, EINVAL}, {1 << 21, E2BIG}};
    for (size_t n = 0; n < sizeof bad / sizeof bad[0]; n++) {
        cap.args[0] = bad[n][0];
        errno = 0;
        CHECK(ioctl(m.vm, KVM_ENABLE_CAP, &cap) == -1 && errno == (int)bad[n][1]);
    }
    cap.args[0] = bytes;
    CHECK(ioctl(m.vm, KVM_ENABLE_CAP, &cap) == 0);
    REFUSED(ioctl(m.vm, KVM_ENABLE_CAP, &cap), EINVAL);
    uint8_t *memory = mmap(NULL, PAGES * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    struct kvm_userspace_memory_region slot = {
        .slot = 7, .flags = KVM_MEM_LOG_DIRTY_PAGES, .guest_phys_addr = LOGGED,
        .memory_size = PAGES * 4096, .userspace_addr = (uintptr_t)memory};
    CHECK(ioctl(m.vm, KVM_SET_USER_MEMORY_REGION, &slot) == 0);
    struct kvm_dirty_log log = {.slot = 7, .dirty_bitmap = seen};
    REFUSED(ioctl(m.vm, KVM_GET_DIRTY_LOG, &log), ENXIO);

    struct vcpu v = vcpu(&m, 0);
    const off_t at = KVM_DIRTY_LOG_PAGE_OFFSET * 4096;
    CHECK(mmap(NULL, bytes, PROT_READ, MAP_PRIVATE, v.fd, at) == MAP_FAILED && errno == EINVAL);
    CHECK(mmap(NULL, bytes, PROT_READ | PROT_EXEC, MAP_SHARED, v.fd, at) == MAP_FAILED && errno == EINVAL);
    ring = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, v.fd, at);
    CHECK(ring != MAP_FAILED && all_cpuid(&m, &v) == 0 && long_mode(&m, &v, CODE, WRITE, sizeof WRITE) == 0);
    next = 0;
    for (int round = 1; round < 9; round++) {
        int full = run(&m, &v);
        CHECK(full >= (int)(PAGES / ENTRIES));
        CHECK(each_was_seen(full) && memory[0] == round && memory[(PAGES - 1) * 4096] == round);
    }
    // Not collected: the vCPU stays out, and what was told is not told again.
    for (int n = 0; n < 4; n++)
        CHECK(ioctl(v.fd, KVM_RUN, 0) == 0 && v.run->exit_reason == KVM_EXIT_DIRTY_RING_FULL);
    CHECK(ioctl(m.vm, KVM_RESET_DIRTY_RINGS, 0) == 0);
    int full = run(&m, &v);
    CHECK(full > 0 && each_was_seen(full));
    munmap((void *)ring, bytes);
    end_vcpu(&m, &v);
    end(&m);
    munmap(memory, PAGES * 4096);
}
