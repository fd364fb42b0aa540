// A VMM whose guest's memory the host takes away, moves, merges and copies while the guest runs: each case is a line, `ok NAME: what was
// done`, or `FAILED NAME: where and what`.
//
// pressure DEVICE SECONDS SEED [CASE…]
#include "pressure.h"
#include <stdarg.h>

const char *device;
double seconds;
uint64_t seed;
char failure[256];
static atomic_int failures;

void fail(const char *file, int line, const char *format, ...) {
    if (failures++)
        return;
    int length = snprintf(failure, sizeof failure, "%s:%d: ", file, line);
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(failure + length, sizeof failure - length, format, arguments);
    va_end(arguments);
}

static char noted[256];

void note(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(noted, sizeof noted, format, arguments);
    va_end(arguments);
}

int failed(void) { return failures != 0; }

uint64_t any(uint64_t below) {
    // splitmix64, of the disturbing thread alone.
    uint64_t z = seed += 0x9e3779b97f4a7c15;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
    z = (z ^ z >> 27) * 0x94d049bb133111eb;
    return (z ^ z >> 31) % below;
}

double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec + time.tv_nsec / 1e9;
}

int reaches(atomic_ulong *count, unsigned long least) {
    for (double began = now(); *count < least && !failed(); usleep(500)) {
        if (now() - began > 60)
            fail(__FILE_NAME__, __LINE__, "the guest does not go on");
    }
    return !failed();
}

int goes_on(double began, int is_too_little) {
    double lasts = now() - began;
    if (is_too_little && lasts >= seconds + 120)
        fail(__FILE_NAME__, __LINE__, "too little has happened in %.0f s", lasts);
    return !failed() && (lasts < seconds || is_too_little);
}

int few(struct guest *g, unsigned long passes) { return g->passes < passes; }

uint8_t *any_page(struct guest *g, size_t count) {
    return g->data + any(PAGES - count + 1) * PAGE;
}

int take(struct guest *g, size_t page) {
    if (g->shared->wanted[page] == PATTERN)
        g->shared->wanted[page] = WANTED;
    for (double began = now(); g->shared->wanted[page] != LEFT_ALONE && !failed();) {
        if (now() - began > 60)
            fail(__FILE_NAME__, __LINE__, "the guest does not leave page %zu alone", page);
        usleep(100);
    }
    return !failed();
}

unsigned long told(const char *file, const char *word) {
    char line[256];
    unsigned long sum = 0, number;
    FILE *stream = fopen(file, "r");
    while (stream && fgets(line, sizeof line, stream)) {
        size_t length = strlen(word);
        if (strncmp(line, word, length) == 0 && sscanf(line + length, "%lu", &number) == 1)
            sum += number;
    }
    if (stream)
        fclose(stream);
    return sum;
}

#define CASE(name) {#name, name}
static const struct {
    const char *name;
    void (*run)(void);
} CASES[] = {
    CASE(pages_are_dropped),
    CASE(dropped_pages_are_zeros),
    CASE(pages_are_mapped_anew),
    CASE(pages_are_protected),
    CASE(pages_are_moved_to_another_address),
    CASE(a_child_has_the_pages_of_its_time),
    CASE(pages_are_swapped_out),
    CASE(alike_pages_are_merged),
    CASE(huge_pages_come_and_go),
    CASE(pages_are_migrated),
    CASE(threads_are_moved),
    CASE(all_at_once),
};

int main(int count, char **arguments) {
    int wrong = 0, ran = 0;
    if (count < 4) {
        fprintf(stderr, "pressure DEVICE SECONDS SEED [CASE...]\n");
        return 2;
    }
    device = arguments[1], seconds = atof(arguments[2]);
    setvbuf(stdout, NULL, _IOLBF, 0);
    for (size_t n = 0; n < sizeof CASES / sizeof CASES[0]; n++) {
        int chosen = count == 4;
        for (int at = 4; at < count; at++)
            chosen |= strcmp(arguments[at], CASES[n].name) == 0;
        if (!chosen)
            continue;
        seed = strtoull(arguments[3], NULL, 0);
        failures = 0;
        ran++;
        double began = now();
        CASES[n].run();
        if (failures)
            printf("FAILED %s: %s\n", CASES[n].name, failure), wrong++;
        else
            printf("ok %s: %s in %.1f s\n", CASES[n].name, noted, now() - began);
    }
    // A name that is none is no success.
    return wrong != 0 || ran < (count == 4 ? 1 : count - 4);
}
