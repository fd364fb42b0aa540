// What the files of this program share: a guest whose memory is known at each moment, and a case's means.
//
// The program knows a node of KVM's interface as Linux's headers have it, and nothing of what is behind it. A guest has one vCPU, in
// 64-bit mode, which goes round after round over its pages: it looks at a cell of 8 bytes in each 64, and writes the next
// round's. A case disturbs these pages meanwhile, and knows what must be in them whatever the host does with them.
#pragma once
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096ul
#define HUGE (2ul << 20)
#define CELL 64ul
// Where the guest has the pages that are disturbed, and how many there are.
#define DATA 0x10000000ul
#define PAGES 4096ul
#define BYTES (PAGES * PAGE)

// What the case that runs found wrong, if anything.
extern char failure[256];

#define FAIL(...)                                                                                  \
    do {                                                                                           \
        fail(__FILE_NAME__, __LINE__, __VA_ARGS__);                                                \
        return;                                                                                    \
    } while (0)
#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (!(condition))                                                                          \
            FAIL("%s (errno %d)", #condition, errno);                                              \
    } while (0)

// Keeps the first failure of a case. Any thread.
void fail(const char *file, int line, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
int failed(void);
// What the case did, for its line.
void note(const char *format, ...) __attribute__((format(printf, 1, 2)));

// What a page is to the guest: a byte for each in `struct shared`.
enum wanted {
    // It has the pattern.
    PATTERN,
    // The VMM wants it: the guest is to touch it no more.
    WANTED,
    // So it does.
    LEFT_ALONE,
    // The guest has it again, and it must be all zeros.
    ZEROS,
};

// What guest and VMM share, in memory that is not disturbed.
struct shared {
    // The round whose pattern is there after the last pass.
    _Atomic uint64_t round;
    // Whether the guest only reads, and the round stays.
    _Atomic uint64_t reads_only;
    _Atomic uint8_t wanted[PAGES];
};

// How a guest looks at its memory.
enum form {
    PLAIN = 0,
    // All pages have the same pattern.
    ALIKE = 1,
    // A cell may be zero instead.
    MAY_BE_ZERO = 2,
};

struct guest {
    int kvm, vm, vcpu, form;
    size_t run_size;
    struct kvm_run *run;
    uint8_t *low;
    // The pages that are disturbed.
    uint8_t *data;
    struct shared *shared;
    pthread_t thread;
    atomic_int thread_id, stop, ended;
    // Passes over all pages; exits that were EFAULT; times that the thread was seen on another processor than before.
    atomic_ulong passes, faults, moves;
};

// The path of the device's node, how long a case lasts, and what it is seeded with.
extern const char *device;
extern double seconds;
extern uint64_t seed;

// Starts a guest with a thread of its own.
void start(struct guest *g, int form);
// Ends the pass and the thread, looks at all cells, and gives up what there was.
void stop(struct guest *g);
// Another number less than `below`, in an order that the seed gives.
uint64_t any(uint64_t below);
// Any page, or run of them.
uint8_t *any_page(struct guest *g, size_t count);
// Has the guest leave a page alone. Gives whether it does; not if something failed.
int take(struct guest *g, size_t page);
// The value that a cell has in a round.
uint64_t pattern(const struct guest *g, uint64_t address, uint64_t round);
// Waits until `count` is at least `least`, for a limited time.
int reaches(atomic_ulong *count, unsigned long least);
// Whether a case is to go on: its time is not up, or something is less than it has to be, for a limited time; and nothing failed.
int goes_on(double began, int is_too_little);
// Whether the guest has made fewer passes than these.
int few(struct guest *g, unsigned long passes);
double now(void);
// A number that the kernel tells: the one after `word` in a file, or the sum of all such.
unsigned long told(const char *file, const char *word);

// The cases.
void pages_are_swapped_out(void);
void pages_are_dropped(void);
void dropped_pages_are_zeros(void);
void pages_are_mapped_anew(void);
void pages_are_protected(void);
void pages_are_moved_to_another_address(void);
void a_child_has_the_pages_of_its_time(void);
void alike_pages_are_merged(void);
void huge_pages_come_and_go(void);
void pages_are_migrated(void);
void threads_are_moved(void);
void all_at_once(void);

// One disturbance of a kind; -1 if there is none of it here.
void protect_once(struct guest *g);
void move_once(struct guest *g);
void page_out_once(struct guest *g);
void collapse_once(struct guest *g);
int migrate_once(struct guest *g);
int move_thread_once(struct guest *g);
