// What the files of this program share: a machine to make calls on, and expectations.
//
// An expectation is the number of the error, or 0 for none. It is Linux's, from its source (6.1, virt/kvm and arch/x86/kvm); what is
// not plain to see there says where it is. What fails is told and counted, and the check goes on.
#ifndef CHECKS_H
#define CHECKS_H

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

// Linux 6.8; the headers may be older.
#ifndef KVM_SET_USER_MEMORY_REGION2
struct kvm_userspace_memory_region2 {
    uint32_t slot, flags;
    uint64_t guest_phys_addr, memory_size, userspace_addr, guest_memfd_offset;
    uint32_t guest_memfd, pad1;
    uint64_t pad2[14];
};
#define KVM_SET_USER_MEMORY_REGION2 _IOW(KVMIO, 0x49, struct kvm_userspace_memory_region2)
#endif

#define PAGE 4096ul
#define MEMORY (1ul << 20)
#define CODE 0x1000

// Which chips a machine has.
enum chips { NO_CHIPS, SPLIT_CHIPS, ALL_CHIPS };

// A machine with a vCPU and one slot of memory from 0 on, which is logged.
struct machine {
    int kvm, vm, vcpu;
    struct kvm_run *run;
    uint8_t *memory;
};

// Without a vCPU, to begin with.
struct machine bare_machine(enum chips chips);
struct machine machine(enum chips chips);
void end(struct machine *m);
int add_vcpu(struct machine *m, int id);
// Puts code at `CODE`, and the vCPU at its start, in real mode.
void real_mode(struct machine *m, const void *code, size_t size);
// Gives a vCPU all of CPUID that there is.
int all_cpuid(int kvm, int vcpu);
int enable_cap(int fd, uint32_t cap, uint32_t flags, uint64_t value);

// Bytes that there are, up to the end of a page behind which nothing is mapped.
void *before_nothing(size_t size);

// What a call gave, its error's number or 0.
int outcome(long result);
void expect(const char *file, int line, const char *what, long result, int error);
// Where there are two right answers.
void expect_either(const char *file, int line, const char *what, long result, int error, int other);
void ensure(const char *file, int line, const char *what, int condition);

#define EXPECT(call, error) expect(__FILE_NAME__, __LINE__, #call, (errno = 0, (call)), error)
#define EXPECT_EITHER(call, error, other)                                                          \
    expect_either(__FILE_NAME__, __LINE__, #call, (errno = 0, (call)), error, other)
#define ENSURE(condition) ensure(__FILE_NAME__, __LINE__, #condition, condition)

// The table of calls, in calls.c.
enum { DEVICE = 1, VM = 2, VCPU = 4 };
enum pointer {
    // No pointer.
    VALUE,
    // Is read.
    READ,
    // Is written, and perhaps read before.
    WRITTEN,
};
struct call {
    const char *name;
    unsigned long number;
    // Whose it is.
    int of;
    enum pointer pointer;
    // How many bytes of a structure that begins with zeros there must be.
    size_t size;
    // Which others it is not tried on: Linux has it there, too, or it may have.
    int not_tried_on;
};
extern const struct call CALLS[];
extern const size_t CALL_COUNT;

struct check {
    const char *name;
    void (*run)(void);
};
// Each file's, with an empty one at the end.
extern const struct check POINTERS[], VALUES[], STATES[], ORDER[], LIVES[];

#endif
