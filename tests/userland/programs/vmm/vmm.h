// What the VMM's files have in common: a check's means, and a machine.
//
// It knows /dev/kvm as Linux's headers and api.rst have it, and nothing of what is behind. Guests are some bytes of real mode, or of
// 64-bit mode with page tables that map 2 MiB onto itself.
#pragma once
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

// What is wrong in the check that runs, if anything is.
extern const char *failure;
extern char failure_text[256];

#define FAIL(...)                                                                                  \
    do {                                                                                           \
        if (!failure) {                                                                            \
            int n = snprintf(failure_text, sizeof failure_text, "%s:%d: ", __FILE__, __LINE__);            \
            snprintf(failure_text + n, sizeof failure_text - n, __VA_ARGS__);                      \
            failure = failure_text;                                                                \
        }                                                                                          \
        return;                                                                                    \
    } while (0)
#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (!(condition))                                                                          \
            FAIL("%s (errno %d)", #condition, errno);                                              \
        if (failure)                                                                               \
            return;                                                                                \
    } while (0)
#define REFUSED(call, number)                                                                      \
    do {                                                                                           \
        errno = 0;                                                                                 \
        long result = (call);                                                                      \
        if (result != -1 || errno != (number))                                                     \
            FAIL("%s: %ld, errno %d, not %s", #call, result, errno, #number);                      \
    } while (0)

#define MEMORY (2u << 20)
#define CODE 0x1000

// A machine with one slot of memory from 0 on.
struct machine {
    int kvm, vm;
    size_t run_size;
    uint8_t *memory;
};

struct vcpu {
    int fd;
    struct kvm_run *run;
};

struct machine machine(void);
struct vcpu vcpu(struct machine *m, int id);
void end(struct machine *m);
void end_vcpu(struct machine *m, struct vcpu *v);

// Puts code at `CODE`, and the vCPU at its start, in real mode.
void real_mode(struct machine *m, struct vcpu *v, const void *code, size_t size);

// The same in 64-bit mode, at an address of its own.
int long_mode(struct machine *m, struct vcpu *v, uint64_t at, const void *code, size_t size);

// Has the vCPU tell the guest all that there is.
int all_cpuid(struct machine *m, struct vcpu *v);

// jmp to itself
static const uint8_t SPIN[] = {0xeb, 0xfe};

// What the C library has the kernel know of a handler beside what the program says.
#define RESTORER 0x04000000

// Whether a child ended otherwise than with status 0.
int child_fails(pid_t child);

// The checks.
void device(void);
void real_mode_guest(void);
void two_vcpus_in_long_mode(void);
void a_signal_ends_a_run_after_its_handler(void);
void immediate_exit_ends_a_run(void);
void a_signal_wakes_a_halted_vcpu(void);
void a_handler_in_a_run_makes_no_ioctl(void);
void the_signal_mask_of_a_run(void);
void a_signal_without_a_handler_ends_a_run(void);
void handlers_are_the_programs_own(void);
void an_argument_that_is_not_there_is_no_fault(void);
void copies_are_the_same(void);
void a_descriptor_is_not_sent(void);
void a_vm_lives_as_long_as_its_vcpu(void);
void each_kind_has_its_own_calls(void);
void a_child_has_none_of_it(void);
void events_outlive_closing_all(void);
void statistics_are_those_of_now(void);
void writes_that_wait_are_in_each_vcpus_ring(void);
void dirty_pages_come_in_rings(void);
void a_task_priority_is_told_and_kept(void);
void descriptors_come_and_go_under_calls(void);
void nothing_is_left_of_many_machines(void);
void cost(void);
