// What a disk of a guest's does in a second: reads and writes, in order and anywhere, one and many at a time. Prints a line for each:
// `device NAME NUMBER`, with bytes a second where blocks are large, and requests a second where they are small.
//
// Usage: disk DEVICE SECONDS, which is how long each is measured. The page cache is not used (O_DIRECT); many at a time are Linux's own asynchronous I/O, by its system calls,
// because a static program needs no library for them.

#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "measure.h"

// How long each is done before it is measured: a part of that time.
#define WARM_UP 0.2

#define DEEP 32
#define LARGE (128 << 10)
#define SMALL 4096

struct test {
    const char *name;
    int writes, random, depth;
    size_t block;
};

static const struct test TESTS[] = {
    {"sequential-read", 0, 0, 1, LARGE},      {"sequential-read-32", 0, 0, DEEP, LARGE},
    {"sequential-write", 1, 0, 1, LARGE},     {"sequential-write-32", 1, 0, DEEP, LARGE},
    {"random-read", 0, 1, 1, SMALL},          {"random-read-32", 0, 1, DEEP, SMALL},
    {"random-write", 1, 1, 1, SMALL},         {"random-write-32", 1, 1, DEEP, SMALL},
};

static uint64_t state = 88172645463325252;

static uint64_t random_number(void) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}

static uint64_t next_offset(const struct test *test, uint64_t blocks, uint64_t *at) {
    uint64_t block = test->random ? random_number() % blocks : (*at)++ % blocks;
    return block * test->block;
}

static void submit(aio_context_t context, struct iocb *request) {
    if (syscall(SYS_io_submit, context, 1, &request) != 1)
        fail("io_submit");
}

// Requests that are done within some seconds, divided by the time that they took.
static double measure(const struct test *test, aio_context_t context, int disk, uint64_t size, char *buffers, double seconds) {
    struct iocb requests[DEEP];
    uint64_t blocks = size / test->block, at = 0, done = 0;
    double start = now(), end = start + seconds, last = start;
    int under_way = 0;
    memset(requests, 0, sizeof requests);
    for (int i = 0; i < test->depth; i++) {
        requests[i].aio_fildes = disk;
        requests[i].aio_lio_opcode = test->writes ? IOCB_CMD_PWRITE : IOCB_CMD_PREAD;
        requests[i].aio_buf = (uintptr_t)(buffers + (size_t)i * LARGE);
        requests[i].aio_nbytes = test->block;
        requests[i].aio_offset = next_offset(test, blocks, &at);
        submit(context, &requests[i]);
        under_way++;
    }
    while (under_way > 0) {
        struct io_event events[DEEP];
        long count = syscall(SYS_io_getevents, context, 1, DEEP, events, NULL);
        if (count < 1)
            fail("io_getevents");
        last = now();
        for (long i = 0; i < count; i++) {
            struct iocb *request = (struct iocb *)(uintptr_t)events[i].obj;
            if (events[i].res != (int64_t)test->block) {
                fprintf(stderr, "%s: a request gave %lld\n", test->name, (long long)events[i].res);
                exit(1);
            }
            done++;
            under_way--;
            if (last < end) {
                request->aio_offset = next_offset(test, blocks, &at);
                submit(context, request);
                under_way++;
            }
        }
    }
    return done / (last - start);
}

int main(int count, char **arguments) {
    if (count != 3)
        return 2;
    double seconds = strtod(arguments[2], NULL);
    int disk = open(arguments[1], O_RDWR | O_DIRECT);
    if (disk < 0)
        fail(arguments[1]);
    uint64_t size;
    if (ioctl(disk, BLKGETSIZE64, &size) != 0)
        fail("BLKGETSIZE64");
    char *buffers = aligned_alloc(4096, (size_t)DEEP * LARGE);
    if (!buffers)
        fail("aligned_alloc");
    memset(buffers, 0x5a, (size_t)DEEP * LARGE);
    aio_context_t context = 0;
    if (syscall(SYS_io_setup, DEEP, &context) != 0)
        fail("io_setup");
    for (size_t i = 0; i < sizeof TESTS / sizeof *TESTS; i++) {
        const struct test *test = &TESTS[i];
        measure(test, context, disk, size, buffers, WARM_UP * seconds);
        double rate = measure(test, context, disk, size, buffers, seconds);
        printf("device %s %.0f\n", test->name, test->block == LARGE ? rate * LARGE : rate);
        fflush(stdout);
    }
    return 0;
}
