// Descriptors that are closed, memory that goes, and calls from several threads at once.
#include "checks.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>

// out 0x80, al; and again
static const uint8_t OUT[] = {0xe6, 0x80, 0xeb, 0xfc};

static void what_is_closed_is_ebadf_and_the_rest_lives(void) {
    struct machine m = machine(ALL_CHIPS);
    real_mode(&m, OUT, sizeof OUT);
    close(m.kvm), close(m.vm);
    for (size_t n = 0; n < CALL_COUNT; n++)
        if (CALLS[n].of != VCPU)
            EXPECT(ioctl(CALLS[n].of == VM ? m.vm : m.kvm, CALLS[n].number, 0), EBADF);
    struct kvm_regs regs;
    EXPECT(ioctl(m.vcpu, KVM_GET_REGS, &regs), 0);
    ENSURE(regs.rip == CODE);
    EXPECT(ioctl(m.vcpu, KVM_RUN, 0), 0);
    ENSURE(m.run->exit_reason == KVM_EXIT_IO && m.run->io.port == 0x80);
    int vcpu = m.vcpu;
    close(vcpu);
    for (size_t n = 0; n < CALL_COUNT; n++)
        if (CALLS[n].of == VCPU)
            EXPECT(ioctl(vcpu, CALLS[n].number, 0), EBADF);
    // What it shares stays mapped.
    ENSURE(m.run->exit_reason == KVM_EXIT_IO);
    munmap(m.memory, MEMORY);
}

// A slot's memory that is not there any more: what is asked for that is in there is not to be had, and nothing else comes of it.
static void what_is_unmapped_is_not_the_programs_end(void) {
    struct machine m = machine(NO_CHIPS);
    struct kvm_sregs sregs;
    // With page tables where nothing will be.
    EXPECT(ioctl(m.vcpu, KVM_GET_SREGS, &sregs), 0);
    sregs.cr3 = 0x10000, sregs.cr0 |= 0x80000001;
    EXPECT(ioctl(m.vcpu, KVM_SET_SREGS, &sregs), 0);
    munmap(m.memory, MEMORY);
    struct kvm_translation translation = {.linear_address = 0x1000};
    EXPECT(ioctl(m.vcpu, KVM_TRANSLATE, &translation), 0);
    ENSURE(!translation.valid);
    uint64_t bitmap[MEMORY / PAGE / 64];
    struct kvm_dirty_log log = {.dirty_bitmap = bitmap};
    EXPECT(ioctl(m.vm, KVM_GET_DIRTY_LOG, &log), 0);
    // Where it was is not an address for a bitmap either.
    log.dirty_bitmap = m.memory;
    EXPECT(ioctl(m.vm, KVM_GET_DIRTY_LOG, &log), EFAULT);
    EXPECT(ioctl(m.vcpu, KVM_GET_REGS, m.memory), EFAULT);
    EXPECT(ioctl(m.vcpu, KVM_SET_REGS, m.memory + PAGE), EFAULT);
    struct kvm_userspace_memory_region none = {.slot = 0};
    EXPECT(ioctl(m.vm, KVM_SET_USER_MEMORY_REGION, &none), 0);
    m.memory = mmap(NULL, MEMORY, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    end(&m);
}

// mov ax, 0x2000; mov ds, ax; and behind that mov al, [0], or mov [0], al; out 0x80, al; jmp back to the access
#define ACCESS 0x1005
static const uint8_t READS[] = {0xb8, 0x00, 0x20, 0x8e, 0xd8, 0xa0, 0, 0, 0xe6, 0x80, 0xeb, 0xf9};
static const uint8_t WRITES[] = {0xb8, 0x00, 0x20, 0x8e, 0xd8, 0xa2, 0, 0, 0xe6, 0x80, 0xeb, 0xf9};

static uint64_t rip(struct machine *m) {
    struct kvm_regs regs = {0};
    EXPECT(ioctl(m->vcpu, KVM_GET_REGS, &regs), 0);
    return regs.rip;
}

// The guest's accesses to what is not there are errors of KVM_RUN's, before the instruction; it goes on when it is there again.
static void what_the_guest_needs_and_is_unmapped_is_efault(void) {
    for (int writes = 0; writes < 2; writes++) {
        struct machine m = machine(NO_CHIPS);
        real_mode(&m, writes ? WRITES : READS, sizeof READS);
        uint8_t *page = m.memory + 0x20000;
        int fixed = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED;
        if (writes)
            mprotect(page, PAGE, PROT_READ);
        else
            munmap(page, PAGE);
        for (int again = 0; again < 2; again++) {
            EXPECT(ioctl(m.vcpu, KVM_RUN, 0), EFAULT);
            ENSURE(rip(&m) == ACCESS);
        }
        ENSURE(mmap(page, PAGE, PROT_READ | PROT_WRITE, fixed, -1, 0) == page);
        *page = 0x5a;
        EXPECT(ioctl(m.vcpu, KVM_RUN, 0), 0);
        ENSURE(m.run->exit_reason == KVM_EXIT_IO && m.run->io.port == 0x80);
        ENSURE(writes ? *page == 0 : *((uint8_t *)m.run + m.run->io.data_offset) == 0x5a);
        // What it knows by heart, between two runs.
        for (int again = 0; again < 200; again++)
            EXPECT(ioctl(m.vcpu, KVM_RUN, 0), 0);
        munmap(page, PAGE);
        EXPECT(ioctl(m.vcpu, KVM_RUN, 0), EFAULT);
        ENSURE(rip(&m) == ACCESS);
        ENSURE(mmap(page, PAGE, PROT_READ | PROT_WRITE, fixed, -1, 0) == page);
        EXPECT(ioctl(m.vcpu, KVM_RUN, 0), 0);
        // Its code.
        uint8_t code[PAGE];
        memcpy(code, m.memory + CODE, PAGE);
        munmap(m.memory + CODE, PAGE);
        EXPECT(ioctl(m.vcpu, KVM_RUN, 0), EFAULT);
        ENSURE(mmap(m.memory + CODE, PAGE, PROT_READ | PROT_WRITE, fixed, -1, 0) != MAP_FAILED);
        memcpy(m.memory + CODE, code, PAGE);
        EXPECT(ioctl(m.vcpu, KVM_RUN, 0), 0);
        ENSURE(m.run->exit_reason == KVM_EXIT_IO && m.run->io.port == 0x80);
        end(&m);
    }
}

// mov ax, 0x2000; mov ds, ax; mov al, [0]; and then mov [0], al; out 0x80, al
static const uint8_t READS_AND_WRITES[] = {0xb8, 0x00, 0x20, 0x8e, 0xd8, 0xa0, 0,
                                           0,    0xa2, 0,    0,    0xe6, 0x80};

static void what_may_only_be_read_is_efault_when_it_is_written(void) {
    struct machine m = machine(NO_CHIPS);
    real_mode(&m, READS_AND_WRITES, sizeof READS_AND_WRITES);
    // Without a log, for which the first write would be looked at anyway.
    struct kvm_userspace_memory_region slot = {.memory_size = MEMORY,
                                               .userspace_addr = (uintptr_t)m.memory};
    EXPECT(ioctl(m.vm, KVM_SET_USER_MEMORY_REGION, &slot), 0);
    mprotect(m.memory + 0x20000, PAGE, PROT_READ);
    EXPECT(ioctl(m.vcpu, KVM_RUN, 0), EFAULT);
    ENSURE(rip(&m) == ACCESS + 3);
    mprotect(m.memory + 0x20000, PAGE, PROT_READ | PROT_WRITE);
    EXPECT(ioctl(m.vcpu, KVM_RUN, 0), 0);
    ENSURE(m.run->exit_reason == KVM_EXIT_IO && m.run->io.port == 0x80);
    end(&m);
}

// A slot whose code was executed is removed, and its memory after that.
static void a_slot_with_code_goes(void) {
    struct machine m = machine(NO_CHIPS);
    // jmp 0x3000:0, where there is another slot, with out 0x80, al; jmp 0:0x1005; and there, after the jump: out 0x81, al; jmp back to it
    static const uint8_t here[] = {0xea, 0, 0, 0x00, 0x30, 0xe6, 0x81, 0xeb, 0xfc};
    static const uint8_t there[] = {0xe6, 0x80, 0xea, 0x05, 0x10, 0, 0};
    real_mode(&m, here, sizeof here);
    struct kvm_userspace_memory_region slots[] = {
        {.slot = 0},
        {.slot = 1, .memory_size = 0x30000, .userspace_addr = (uintptr_t)m.memory},
        {.slot = 2,
         .guest_phys_addr = 0x30000,
         .memory_size = PAGE,
         .userspace_addr = (uintptr_t)mmap(NULL, PAGE, PROT_READ | PROT_WRITE,
                                           MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)},
    };
    memcpy((void *)(uintptr_t)slots[2].userspace_addr, there, sizeof there);
    for (int n = 0; n < 3; n++)
        EXPECT(ioctl(m.vm, KVM_SET_USER_MEMORY_REGION, &slots[n]), 0);
    EXPECT(ioctl(m.vcpu, KVM_RUN, 0), 0);
    ENSURE(m.run->exit_reason == KVM_EXIT_IO && m.run->io.port == 0x80);
    EXPECT(ioctl(m.vcpu, KVM_RUN, 0), 0);
    ENSURE(m.run->exit_reason == KVM_EXIT_IO && m.run->io.port == 0x81);
    slots[2].memory_size = 0;
    EXPECT(ioctl(m.vm, KVM_SET_USER_MEMORY_REGION, &slots[2]), 0);
    munmap((void *)(uintptr_t)slots[2].userspace_addr, PAGE);
    // A fault would be the process's end.
    sigset_t all;
    sigfillset(&all);
    sigprocmask(SIG_BLOCK, &all, NULL);
    EXPECT(ioctl(m.vcpu, KVM_RUN, 0), 0);
    ENSURE(m.run->exit_reason == KVM_EXIT_IO && m.run->io.port == 0x81);
    sigprocmask(SIG_UNBLOCK, &all, NULL);
    end(&m);
}

struct creation {
    int vm, id, fd, error;
    pthread_barrier_t *barrier;
};

static void *create(void *argument) {
    struct creation *c = argument;
    pthread_barrier_wait(c->barrier);
    c->fd = ioctl(c->vm, KVM_CREATE_VCPU, c->id);
    c->error = outcome(c->fd);
    return NULL;
}

static void one_of_two_makes_a_vcpu(void) {
    struct machine m = bare_machine(ALL_CHIPS);
    pthread_barrier_t barrier;
    pthread_barrier_init(&barrier, NULL, 2);
    for (int id = 0; id < 32; id++) {
        struct creation two[2];
        pthread_t threads[2];
        for (int n = 0; n < 2; n++) {
            two[n] = (struct creation){.vm = m.vm, .id = id, .barrier = &barrier};
            pthread_create(&threads[n], NULL, create, &two[n]);
        }
        for (int n = 0; n < 2; n++)
            pthread_join(threads[n], NULL);
        ENSURE((two[0].error == 0 && two[1].error == EEXIST) ||
               (two[1].error == 0 && two[0].error == EEXIST));
        for (int n = 0; n < 2; n++)
            if (two[n].error == 0)
                close(two[n].fd);
    }
    pthread_barrier_destroy(&barrier);
    end(&m);
}

struct shared {
    struct machine m;
    atomic_int stop, runs, wrong;
};

static void *run(void *argument) {
    struct shared *s = argument;
    while (!s->stop) {
        int error = outcome(ioctl(s->m.vcpu, KVM_RUN, 0));
        if (error && error != EINTR && error != EFAULT)
            s->wrong = error;
        s->runs++;
        // So that others come in between.
        sched_yield();
    }
    return NULL;
}

// The calls of a vCPU that runs on another thread are made between two of its runs.
static void a_vcpus_calls_are_made_one_after_the_other(void) {
    struct shared s = {.m = machine(ALL_CHIPS)};
    pthread_t thread;
    real_mode(&s.m, OUT, sizeof OUT);
    pthread_create(&thread, NULL, run, &s);
    for (int n = 0; n < 200; n++) {
        struct kvm_regs regs;
        static struct kvm_xsave xsave;
        EXPECT(ioctl(s.m.vcpu, KVM_GET_REGS, &regs), 0);
        // As an exit leaves it, whose instruction has not been completed.
        ENSURE(regs.rip >= CODE && regs.rip <= CODE + sizeof OUT);
        EXPECT(ioctl(s.m.vcpu, KVM_GET_XSAVE, &xsave), 0);
        EXPECT(ioctl(s.m.vcpu, KVM_SET_XSAVE, &xsave), 0);
        EXPECT(ioctl(s.m.vcpu, KVM_SET_REGS, 0), EFAULT);
        EXPECT(ioctl(s.m.vcpu, _IO(KVMIO, 0xff), 0), EINVAL);
    }
    while (s.runs < 200)
        sched_yield();
    s.stop = 1;
    pthread_join(thread, NULL);
    ENSURE(s.wrong == 0);
    end(&s.m);
}

// Slots come and go while a guest writes to them. It finds memory, or what is an exit.
static void slots_change_under_a_guest(void) {
    struct shared s = {.m = machine(ALL_CHIPS)};
    // inc byte [bx]; out 0x80, al; and again: DS is at the slot.
    const uint8_t code[] = {0xfe, 0x07, 0xe6, 0x80, 0xeb, 0xfa};
    pthread_t thread;
    real_mode(&s.m, code, sizeof code);
    struct kvm_sregs sregs;
    EXPECT(ioctl(s.m.vcpu, KVM_GET_SREGS, &sregs), 0);
    sregs.ds.base = 2 * MEMORY;
    EXPECT(ioctl(s.m.vcpu, KVM_SET_SREGS, &sregs), 0);
    uint8_t *page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    struct kvm_userspace_memory_region slot = {.slot = 1,
                                               .guest_phys_addr = 2 * MEMORY,
                                               .memory_size = PAGE,
                                               .userspace_addr = (uintptr_t)page};
    EXPECT(ioctl(s.m.vm, KVM_SET_USER_MEMORY_REGION, &slot), 0);
    pthread_create(&thread, NULL, run, &s);
    int before = 0;
    for (int n = 0; n < 200; n++) {
        slot.flags = n & 1 ? KVM_MEM_LOG_DIRTY_PAGES : 0;
        EXPECT(ioctl(s.m.vm, KVM_SET_USER_MEMORY_REGION, &slot), 0);
        slot.guest_phys_addr ^= 4 * MEMORY;
        EXPECT(ioctl(s.m.vm, KVM_SET_USER_MEMORY_REGION, &slot), 0);
        slot.guest_phys_addr ^= 4 * MEMORY;
        EXPECT(ioctl(s.m.vm, KVM_SET_USER_MEMORY_REGION, &slot), 0);
        slot.memory_size = 0;
        EXPECT(ioctl(s.m.vm, KVM_SET_USER_MEMORY_REGION, &slot), 0);
        EXPECT(ioctl(s.m.vm, KVM_SET_USER_MEMORY_REGION, &slot), EINVAL);
        slot.memory_size = PAGE;
        EXPECT(ioctl(s.m.vm, KVM_SET_USER_MEMORY_REGION, &slot), 0);
        while (n % 10 == 0 && s.runs == before)
            sched_yield();
        before = s.runs;
    }
    s.stop = 1;
    pthread_join(thread, NULL);
    ENSURE(s.wrong == 0);
    ENSURE(s.runs > 0);
    munmap(page, PAGE);
    end(&s.m);
}

const struct check LIVES[] = {
    {"what_is_closed_is_ebadf_and_the_rest_lives", what_is_closed_is_ebadf_and_the_rest_lives},
    {"what_is_unmapped_is_not_the_programs_end", what_is_unmapped_is_not_the_programs_end},
    {"what_the_guest_needs_and_is_unmapped_is_efault", what_the_guest_needs_and_is_unmapped_is_efault},
    {"what_may_only_be_read_is_efault_when_it_is_written", what_may_only_be_read_is_efault_when_it_is_written},
    {"a_slot_with_code_goes", a_slot_with_code_goes},
    {"one_of_two_makes_a_vcpu", one_of_two_makes_a_vcpu},
    {"a_vcpus_calls_are_made_one_after_the_other", a_vcpus_calls_are_made_one_after_the_other},
    {"slots_change_under_a_guest", slots_change_under_a_guest},
    {0},
};
