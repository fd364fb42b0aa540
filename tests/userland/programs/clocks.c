// Whether time goes on from processor to processor: a thread on each one takes turns with the others and reads the
// time stamp counter and CLOCK_MONOTONIC, which are never before what the last one read.
//
// clocks SECONDS EXCHANGES: until there were so many exchanges, or the time is over.

#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>
#include <x86intrin.h>

static long processors, seconds, exchanges;
// Whose turn it is: its number modulo the number of processors; -1 at the end.
static atomic_long turn;
static uint64_t last_counter, last_time, start;
static uint64_t backward, missed;

static uint64_t now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000ull + time.tv_nsec;
}

static void *take_turns(void *argument) {
    long own = (long)argument;
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(own, &set);
    if (sched_setaffinity(0, sizeof set, &set) != 0) {
        perror("sched_setaffinity");
        exit(2);
    }
    for (;;) {
        long current = atomic_load(&turn);
        if (current < 0) return NULL;
        if (current % processors != own) continue;
        _mm_lfence();
        uint64_t counter = __rdtsc();
        unsigned processor;
        if (__rdtscp(&processor) < counter) backward++;
        if ((processor & 0xfff) != (unsigned long)own) missed++;
        uint64_t time = now();
        if (counter < last_counter || time < last_time) backward++;
        last_counter = counter;
        last_time = time;
        int over = current + 1 >= exchanges || time - start > seconds * 1000000000ull;
        if (over) printf("exchanges %ld backward %lu missed %lu\n", current + 1, backward, missed);
        atomic_store(&turn, over ? -1 : current + 1);
    }
}

int main(int count, char **arguments) {
    if (count != 3) return 2;
    seconds = atol(arguments[1]);
    exchanges = atol(arguments[2]);
    processors = sysconf(_SC_NPROCESSORS_ONLN);
    start = now();
    pthread_t threads[processors];
    for (long n = 0; n < processors; n++) pthread_create(&threads[n], NULL, take_turns, (void *)n);
    for (long n = 0; n < processors; n++) pthread_join(threads[n], NULL);
    return backward != 0 || missed != 0;
}
