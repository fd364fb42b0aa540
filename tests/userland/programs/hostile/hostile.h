// What the files of this program share: a function of PCI's with a virtio device, and a driver for it that can do right and wrong.
//
// The program is the driver itself, as root and without the kernel's: registers are mapped from sysfs, rings and buffers are in a huge
// page, which stays where it is. It knows devices as the standard has them, and nothing of what is behind them. What it names as
// memory for a device to write to is its own, or is none: the guest itself is to survive.
//
// See: VIRTIO 1.2; PCI Local Bus Specification 3.0.
#pragma once
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define COUNT(array) (sizeof(array) / sizeof(array)[0])
#define PAGE 4096u
// Entries of each queue, and more queues than a device here has.
#define SIZE 16u
#define QUEUES 16u
// A queue's rings are a page: what is available, and what was used, from here on.
#define AVAILABLE 0x400
#define USED 0x800
// Pages of buffers.
#define BUFFERS 256u

// Numbers of devices. See: VIRTIO 1.2, 5.
enum { BLOCK = 2, CONSOLE = 3, ENTROPY = 4, BALLOON = 5, SOCKETS = 19 };
// Flags of descriptors.
enum { NEXT = 1, WRITE = 2, INDIRECT = 4 };
// Bits of the device status.
enum { ACKNOWLEDGE = 1, DRIVER = 2, DRIVER_OK = 4, FEATURES_OK = 8, NEEDS_RESET = 64 };
// Registers of the common configuration. See: VIRTIO 1.2, 4.1.4.3.
enum {
    DEVICE_FEATURE_SELECT = 0x00,
    DEVICE_FEATURE = 0x04,
    DRIVER_FEATURE_SELECT = 0x08,
    DRIVER_FEATURE = 0x0c,
    CONFIG_VECTOR = 0x10,
    NUM_QUEUES = 0x12,
    STATUS = 0x14,
    QUEUE_SELECT = 0x16,
    QUEUE_SIZE = 0x18,
    QUEUE_VECTOR = 0x1a,
    QUEUE_ENABLE = 0x1c,
    QUEUE_NOTIFY_OFF = 0x1e,
    QUEUE_DESC = 0x20,
    QUEUE_AVAIL = 0x28,
    QUEUE_USED = 0x30,
};
// Registers of configuration space.
enum { COMMAND = 0x04, BAR0 = 0x10 };
enum { MEMORY = 1 << 1, BUS_MASTER = 1 << 2, NO_LINE = 1 << 10 };

struct function {
    // As sysfs has it, and the driver that it had.
    char name[16], driver[32];
    // Bus, device and function for the ports of configuration space.
    uint32_t number;
    volatile uint8_t *bar;
    uint32_t place, size;
    // Where in its memory what is.
    uint32_t common, isr, device, notify, multiplier, table, pending;
    // Where in configuration space: the messages' capability, and that of accesses by configuration space.
    uint8_t msix, access;
    unsigned vectors, type, queues;
    uint64_t features;
    // How many chains were made available, and how many used ones were seen.
    uint16_t available[QUEUES], used[QUEUES];
    uint16_t notify_off[QUEUES];
    const struct kind *kind;
    // What it works with: for a disk, its first sectors.
    uint8_t known[8 * 512];
    int is_known;
    unsigned cases, wrong;
};

// What a device is.
struct kind {
    const char *name;
    unsigned type;
    // The queues that it looks at when it is notified: a bit for each.
    unsigned served;
    // What buffers are filled with: nothing that does something.
    uint8_t filler;
    // Asks for something, on a device that is set up.
    void (*ask)(struct function *f);
    // Asks for something that takes longer; none, if nothing does. Nobody waits for the answer.
    void (*burden)(struct function *f);
    // Waits for the answer to what was asked for. Gives what is wrong with it, if anything.
    const char *(*answer)(struct function *f);
    // What is wrong in the device's own terms.
    void (*wrong)(struct function *f);
};

// What becomes of a chain.
enum fate { WAS_USED, ASKED_FOR_RESET, NOTHING };

// What is expected of something wrong: a request for reset, or that it is that or ignored.
enum expected { RESET, EITHER };

// pci.c: functions and their configuration spaces.
unsigned find(struct function *all, unsigned most);
void attach(struct function *f);
void give_back(struct function *f);
uint32_t configured(const struct function *f, unsigned offset, unsigned size);
void configure(const struct function *f, unsigned offset, unsigned size, uint32_t value);
uint64_t get(const struct function *f, uint32_t offset, unsigned size);
void set(const struct function *f, uint32_t offset, unsigned size, uint64_t value);

// memory.c: memory that a device is told of.
extern uint8_t *arena;
extern uint64_t end_of_memory;
void make_arena(void);
uint64_t at(const volatile void *own);
uint8_t *buffer(unsigned page);
uint8_t *rings(unsigned queue);

// driver.c: what drivers do.
uint8_t status(const struct function *f);
void set_status(const struct function *f, uint8_t value);
// Resets the device, and makes it ready with those of its features that are in a mask. Gives whether it is.
int set_up(struct function *f, uint64_t features);
void reset(struct function *f);
int negotiate(struct function *f, uint64_t features);
void give_queue(struct function *f, unsigned queue);
void describe(void *table, unsigned index, uint64_t address, uint32_t size, unsigned flags,
              unsigned next);
void offer(struct function *f, unsigned queue, unsigned head);
void notify(const struct function *f, unsigned queue);
// Offers the chain that begins at `head`, and notifies.
void send(struct function *f, unsigned queue, unsigned head);
enum fate fate(struct function *f, unsigned queue);
uint16_t used_index(unsigned queue);
// Bytes that were written to the chain that was used last.
uint32_t written(struct function *f, unsigned queue);
// Waits until the device asks for a reset. Gives whether it does.
int asks_for_reset(struct function *f);

// main.c: cases.
double now(void);
uint64_t any(uint64_t below);
// Says that something does not hold.
void wrong(struct function *f, const char *name, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
// Ends a case: the device is reset, set up, and must work.
void must_work(struct function *f, const char *name);
// How many rounds of what is random; from so many on nothing else is left out either.
extern unsigned rounds;
#define LONG 5

extern const struct kind KINDS[];
const struct kind *kind_of(unsigned type);

// The subjects.
void chains(struct function *f);
void rings_out_of_place(struct function *f);
void registers(struct function *f);
void configuration_space(struct function *f);
void placement(struct function *f);
void messages(struct function *f);
void moments(struct function *f);
void at_random(struct function *f);
