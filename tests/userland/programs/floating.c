// Floating point while others compute, too: processes fill every kind of register (x87, SSE, the upper halves of AVX's)
// with values of their own, are preempted and interrupted by signals, and must find what they would alone.
//
// floating PROCESSES ROUNDS: each process makes as many rounds, again and again until a signal has come while it computed,
// and prints its seed and its results. With 0 processes: what is computed alone, of each seed.

#define _GNU_SOURCE
#include <fenv.h>
#include <math.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#define SEEDS 3

// How often a process computes until it says that its timer is dead: many minutes.
#define MOST_TIMES 10000

typedef double Doubles __attribute__((vector_size(32)));
typedef uint64_t Integers __attribute__((vector_size(32)));

static volatile sig_atomic_t signals;
static volatile Doubles disturbed;

// Changes registers that the interrupted code uses.
__attribute__((target_clones("avx2", "default"))) void disturb(int number) {
    Doubles all = {number, 1, 2, signals};
    long double wide = signals;
    for (int i = 0; i < 8; i++) {
        all = all * all + i;
        wide = sqrtl(wide + i);
    }
    disturbed = all + (double)wide;
    signals++;
}

struct result {
    long double wide;
    Doubles doubles;
    Integers integers;
};

// In registers all the while: nothing is called but now and then.
__attribute__((target_clones("avx2", "default"))) void compute(int seed, long rounds, struct result *result) {
    static const int modes[SEEDS] = {FE_TONEAREST, FE_UPWARD, FE_TOWARDZERO};
    // x87's control word and MXCSR belong to the process as well.
    fesetround(modes[seed]);
    long double wide = .3L + seed / 7.L, sum = 0;
    Doubles doubles = {seed / 5. + .1, .2, .3, .4};
    Integers integers = {seed, ~seed, seed << 7, 0x9e3779b97f4a7c15};
    for (long i = 0; i < rounds; i++) {
        wide = 3.9L * wide * (1 - wide);
        sum += sqrtl(wide + i);
        doubles = 3.9 * doubles * (1 - doubles);
        Integers turned = __builtin_shuffle(integers, (Integers){1, 2, 3, 0});
        integers = (integers * 0x5851f42d4c957f2d + i) ^ turned >> 29;
        if (i % 8192 == 0) sched_yield();
    }
    *result = (struct result){wide + sum, doubles, integers};
}

// A line of a seed and its results, for as much as TEXT has room.
#define TEXT 512
static int put(char *text, int seed, const struct result *of) {
    int length = sprintf(text, "%d %La", seed, of->wide);
    for (int i = 0; i < 4; i++) length += sprintf(text + length, " %a %lx", of->doubles[i], of->integers[i]);
    text[length++] = '\n';
    return length;
}

static void report(const char *text, int length) {
    // At once: others print, too.
    if (write(1, text, length) != length) _exit(2);
}

// What a child does, and its exit status.
static int child(int seed, long rounds) {
    struct result result;
    char first[TEXT], again[TEXT];
    signal(SIGALRM, disturb);
    setitimer(ITIMER_REAL, &(struct itimerval){{0, 5000}, {0, 5000}}, NULL);
    compute(seed, rounds, &result);
    int length = put(first, seed, &result), wrong = 0;
    for (int times = 1; signals == 0 && !wrong && times < MOST_TIMES; times++) {
        compute(seed, rounds, &result);
        wrong = put(again, seed, &result) != length || memcmp(first, again, length) != 0;
    }
    setitimer(ITIMER_REAL, &(struct itimerval){{0, 0}, {0, 0}}, NULL);
    report(first, length);
    if (wrong) report(again, length);
    if (signals == 0 && !wrong) fprintf(stderr, "floating: no signal of the timer ever came\n");
    return wrong || signals == 0;
}

int main(int count, char **arguments) {
    if (count != 3) return 2;
    int processes = atoi(arguments[1]);
    long rounds = atol(arguments[2]);
    for (int seed = 0; seed < SEEDS && processes == 0; seed++) {
        struct result result;
        char text[TEXT];
        compute(seed, rounds, &result);
        report(text, put(text, seed, &result));
    }
    for (int n = 0; n < processes; n++) {
        pid_t pid = fork();
        if (pid < 0) perror("floating: fork");
        if (pid == 0) _exit(child(n % SEEDS, rounds));
    }
    int failed = 0, status;
    while (wait(&status) > 0) {
        if (status != 0) fprintf(stderr, "floating: a process ended with %#x\n", status);
        failed |= status;
    }
    return failed != 0;
}
