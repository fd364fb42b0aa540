// Whether a processor still uses a translation after another one has changed it: a thread puts new pages at one
// address, each with a greater number in it, and says so; the other processors' threads then never read a smaller one.
// A function in another page is replaced, too: they never get a smaller number from it.
//
// shootdowns ROUNDS

#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define SIZE 4096

static long processors;
static volatile uint32_t *data;
static uint8_t *code;
// What was put there last; -1 at the end.
static atomic_long published;
static atomic_ulong stale, reads;
static atomic_long seen[64];

static void *replaced(void *page, int protection) {
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | (page ? MAP_FIXED : 0);
    void *mapped = mmap(page, SIZE, protection, flags, -1, 0);
    if (mapped == MAP_FAILED) {
        perror("mmap");
        exit(2);
    }
    return mapped;
}

// Puts `number` into both pages.
static void put(uint32_t number) {
    replaced((void *)data, PROT_READ | PROT_WRITE);
    *data = number;
    replaced(code, PROT_READ | PROT_WRITE);
    // mov eax, number; ret.
    code[0] = 0xb8;
    memcpy(code + 1, &number, 4);
    code[5] = 0xc3;
    if (mprotect(code, SIZE, PROT_READ | PROT_EXEC) != 0) {
        perror("mprotect");
        exit(2);
    }
}

static void on_processor(long n) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(n, &set);
    if (sched_setaffinity(0, sizeof set, &set) != 0) {
        perror("sched_setaffinity");
        exit(2);
    }
}

static void *use(void *argument) {
    long own = (long)argument;
    on_processor(own);
    for (;;) {
        long before = atomic_load(&published);
        if (before < 0) return NULL;
        if (atomic_load(&seen[own]) == before) {
            sched_yield();
            continue;
        }
        if (*data < before || ((uint32_t(*)(void))code)() < before) atomic_fetch_add(&stale, 1);
        atomic_fetch_add(&reads, 1);
        atomic_store(&seen[own], before);
    }
}

int main(int count, char **arguments) {
    if (count != 2) return 2;
    long rounds = atol(arguments[1]);
    processors = sysconf(_SC_NPROCESSORS_ONLN);
    data = replaced(NULL, PROT_READ | PROT_WRITE);
    code = replaced(NULL, PROT_READ | PROT_WRITE);
    put(0);
    on_processor(0);
    for (long n = 1; n < processors; n++) atomic_store(&seen[n], -1);
    pthread_t threads[processors];
    for (long n = 1; n < processors; n++) pthread_create(&threads[n], NULL, use, (void *)n);
    for (long round = 1; round <= rounds; round++) {
        // Each of them has the last one's translation.
        for (long n = 1; n < processors; n++)
            while (atomic_load(&seen[n]) < round - 1) sched_yield();
        put(round);
        atomic_store(&published, round);
    }
    for (long n = 1; n < processors; n++)
        while (atomic_load(&seen[n]) < rounds) sched_yield();
    atomic_store(&published, -1);
    for (long n = 1; n < processors; n++) pthread_join(threads[n], NULL);
    printf("rounds %ld reads %lu stale %lu\n", rounds, reads, stale);
    return stale != 0;
}
