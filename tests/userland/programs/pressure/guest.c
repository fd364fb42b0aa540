// A guest that writes a pattern over its memory and looks whether it is there, and its vCPU's thread.
#include "pressure.h"
#include <stddef.h>

#define LOW HUGE
#define CODE 0x1000ul
#define TABLES 0x100000ul
#define SHARED 0x8000ul
#define ODD 0x9e3779b97f4a7c15ul
// Ports: a pass has ended; a cell is wrong.
#define PASS 0x80
#define WRONG 0x81

// rbx: the round whose pattern is there; r8, r9: where the pages are, and where they end; r10: what is shared; rbp: which bits of an address
// make its pattern; r13: whether a cell may be zero; xmm7: what the pattern is multiplied with, so that a lost register is seen.
asm(".pushsection .rodata\n"
    "guest_code:\n"
    "    movq %r11, %xmm7\n"
    "pass:\n"
    "    mov 8(%r10), %r14d\n" // of this pass: whether it only reads
    "    lea 1(%rbx), %r15\n"  // the next round
    "    mov %r8, %rdi\n"
    "page:\n"
    "    movq %xmm7, %r11\n"
    "    mov %rdi, %rsi\n"
    "    sub %r8, %rsi\n"
    "    shr $12, %rsi\n"
    "    lea 16(%r10, %rsi), %rsi\n" // its byte of what is wanted
    "    xor %r12d, %r12d\n"         // whether it must be zeros
    "    movzbl (%rsi), %eax\n"
    "    test %al, %al\n"
    "    jz cells\n"
    "    cmp $1, %al\n"
    "    jne 1f\n"
    "    movb $2, (%rsi)\n"
    "1:  cmp $3, %al\n"
    "    jne skip\n"
    "    test %r14d, %r14d\n"
    "    jnz skip\n"
    "    inc %r12d\n"
    "cells:\n"
    "    mov $64, %ecx\n"
    "cell:\n"
    "    mov %rdi, %rdx\n"
    "    and %rbp, %rdx\n"
    "    imul %r11, %rdx\n"
    "    mov %rdx, %rax\n"
    "    xor %r15, %rax\n" // what is to be there
    "    xor %rbx, %rdx\n" // what is
    "    test %r12d, %r12d\n"
    "    jz 1f\n"
    "    xor %edx, %edx\n"
    "1:  cmp %rdx, (%rdi)\n"
    "    je right\n"
    "    test %r13d, %r13d\n"
    "    jz wrong\n"
    "    cmpq $0, (%rdi)\n"
    "    jne wrong\n"
    "right:\n"
    "    test %r14d, %r14d\n"
    "    jnz 1f\n"
    "    mov %rax, (%rdi)\n"
    "1:  add $64, %rdi\n"
    "    dec %ecx\n"
    "    jnz cell\n"
    "    test %r12d, %r12d\n"
    "    jz next\n"
    "    movb $0, (%rsi)\n"
    "    jmp next\n"
    "skip:\n"
    "    add $4096, %rdi\n"
    "next:\n"
    "    cmp %r9, %rdi\n"
    "    jne page\n"
    "    test %r14d, %r14d\n"
    "    jnz 1f\n"
    "    mov %r15, %rbx\n"
    "    mov %rbx, (%r10)\n"
    "1:  out %al, $0x80\n"
    "    jmp pass\n"
    "wrong:\n"
    "    mov (%rdi), %rax\n"
    "    out %al, $0x81\n"
    "guest_code_end:\n"
    ".popsection\n");
extern const char guest_code[], guest_code_end[];

_Static_assert(offsetof(struct shared, reads_only) == 8 && offsetof(struct shared, wanted) == 16,
               "as the guest has it");

static uint64_t mask(const struct guest *g) { return g->form & ALIKE ? PAGE - 1 : ~0ul; }

uint64_t pattern(const struct guest *g, uint64_t address, uint64_t round) {
    return ((address & mask(g)) * ODD) ^ round;
}

static int long_mode(struct guest *g) {
    uint64_t *entries = (uint64_t *)(g->low + TABLES);
    entries[0] = (TABLES + 0x1000) | 3;
    entries[512] = (TABLES + 0x2000) | 3;
    for (uint64_t n = 0; n < 512; n++)
        entries[1024 + n] = n << 21 | 0x83;
    memcpy(g->low + CODE, guest_code, guest_code_end - guest_code);
    struct kvm_sregs sregs;
    if (ioctl(g->vcpu, KVM_GET_SREGS, &sregs) != 0)
        return -1;
    struct kvm_segment segment = {
        .limit = 0xffffffff, .selector = 8, .type = 11, .present = 1, .s = 1, .l = 1, .g = 1};
    sregs.cs = segment;
    segment.type = 3, segment.l = 0, segment.db = 1, segment.selector = 16;
    sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = segment;
    sregs.cr0 = 0x80000011;
    sregs.cr3 = TABLES;
    sregs.cr4 = 0x620; // PAE, and SSE's instructions
    sregs.efer = 0x500;
    if (ioctl(g->vcpu, KVM_SET_SREGS, &sregs) != 0)
        return -1;
    struct kvm_regs regs = {.rip = CODE,
                            .rsp = 0x7000,
                            .rflags = 2,
                            .r8 = DATA,
                            .r9 = DATA + BYTES,
                            .r10 = SHARED,
                            .r11 = ODD,
                            .rbp = mask(g),
                            .r13 = (g->form & MAY_BE_ZERO) != 0};
    return ioctl(g->vcpu, KVM_SET_REGS, &regs);
}

static int all_cpuid(struct guest *g) {
    struct {
        struct kvm_cpuid2 head;
        struct kvm_cpuid_entry2 entries[256];
    } cpuid = {.head.nent = 256};
    if (ioctl(g->kvm, KVM_GET_SUPPORTED_CPUID, &cpuid) != 0)
        return -1;
    return ioctl(g->vcpu, KVM_SET_CPUID2, &cpuid);
}

static void tell_wrong(struct guest *g) {
    struct kvm_regs regs = {0};
    ioctl(g->vcpu, KVM_GET_REGS, &regs);
    FAIL("the guest found %#llx at %#llx, not %#llx (round %llu, pass %lu)", regs.rax, regs.rdi,
         regs.rdx, regs.rbx, (unsigned long)g->passes);
}

// Runs the guest until it is to stop, or something is wrong.
static void run(struct guest *g) {
    unsigned processor, before = ~0u;
    while (!failed()) {
        int result = ioctl(g->vcpu, KVM_RUN, 0);
        if (result != 0 && errno == EFAULT) {
            // A page is not there, or must not be written, for now.
            g->faults++;
            sched_yield();
            continue;
        }
        if (result != 0 && errno == EINTR)
            continue;
        if (result != 0)
            FAIL("KVM_RUN (errno %d)", errno);
        if (g->run->exit_reason != KVM_EXIT_IO)
            FAIL("exit %u", g->run->exit_reason);
        if (g->run->io.port == WRONG)
            return tell_wrong(g);
        getcpu(&processor, NULL);
        g->moves += before != ~0u && processor != before;
        before = processor;
        g->passes++;
        if (g->stop)
            return;
    }
}

static void *thread(void *argument) {
    struct guest *g = argument;
    g->thread_id = gettid();
    run(g);
    g->ended = 1;
    return NULL;
}

static int slot(struct guest *g, int number, uint64_t at, uint64_t size, void *memory) {
    struct kvm_userspace_memory_region slot = {.slot = number,
                                               .guest_phys_addr = at,
                                               .memory_size = size,
                                               .userspace_addr = (uintptr_t)memory};
    return ioctl(g->vm, KVM_SET_USER_MEMORY_REGION, &slot);
}

void start(struct guest *g, int form) {
    *g = (struct guest){.form = form, .kvm = open(device, O_RDWR | O_CLOEXEC)};
    CHECK(g->kvm >= 0);
    g->vm = ioctl(g->kvm, KVM_CREATE_VM, 0);
    g->run_size = ioctl(g->kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
    const int flags = MAP_PRIVATE | MAP_ANONYMOUS;
    g->low = mmap(NULL, LOW, PROT_READ | PROT_WRITE, flags, -1, 0);
    // Where huge pages can be.
    uint8_t *room = mmap(NULL, BYTES + HUGE, PROT_NONE, flags, -1, 0);
    CHECK(g->vm >= 0 && g->low != MAP_FAILED && room != MAP_FAILED);
    g->data = (uint8_t *)(((uintptr_t)room + HUGE - 1) / HUGE * HUGE);
    CHECK(mprotect(g->data, BYTES, PROT_READ | PROT_WRITE) == 0);
    g->shared = (struct shared *)(g->low + SHARED);
    for (size_t at = 0; at < BYTES; at += CELL)
        *(uint64_t *)(g->data + at) = pattern(g, DATA + at, 0);
    CHECK(slot(g, 0, 0, LOW, g->low) == 0 && slot(g, 1, DATA, BYTES, g->data) == 0);
    g->vcpu = ioctl(g->vm, KVM_CREATE_VCPU, 0);
    CHECK(g->vcpu >= 0);
    g->run = mmap(NULL, g->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, g->vcpu, 0);
    CHECK(g->run != MAP_FAILED && all_cpuid(g) == 0 && long_mode(g) == 0);
    CHECK(pthread_create(&g->thread, NULL, thread, g) == 0);
    CHECK(reaches(&g->passes, 1));
}

// The VMM's own look at all cells.
static void look(struct guest *g) {
    const uint64_t round = g->shared->round;
    for (size_t at = 0; at < BYTES; at += CELL) {
        uint64_t found = *(uint64_t *)(g->data + at), right = pattern(g, DATA + at, round);
        uint8_t wanted = g->shared->wanted[at / PAGE];
        int is_right = wanted == PATTERN ? found == right : wanted != ZEROS || found == 0;
        if (!is_right && !(g->form & MAY_BE_ZERO && found == 0))
            FAIL("the VMM found %#lx at %#lx, not %#lx (round %lu)", found, DATA + at, right, round);
    }
}

void stop(struct guest *g) {
    if (g->thread) {
        g->stop = 1;
        for (double began = now(); !g->ended && now() - began < 60;)
            usleep(1000);
        if (!g->ended) {
            // There is no way to go on with a thread that does not come out.
            printf("FAILED: KVM_RUN does not end\n");
            exit(1);
        }
        pthread_join(g->thread, NULL);
        if (!failed())
            look(g);
        munmap(g->run, g->run_size);
    }
    close(g->vcpu), close(g->vm), close(g->kvm);
    munmap(g->data, BYTES), munmap(g->low, LOW);
}
