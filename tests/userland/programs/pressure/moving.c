// Pages that are put elsewhere: on a disk, into huge ones, onto another node; and threads, onto another processor.
#include "pressure.h"

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif
#define MOVE_ALL_OF_ONE 2
#define VMSTAT "/proc/vmstat"
#define SPLIT "thp_split_pmd "
#define MIGRATED "pgmigrate_success "

void page_out_once(struct guest *g) {
    size_t count = 1 + any(512);
    // The kernel may find some of them in use.
    if (madvise(any_page(g, count), count * PAGE, MADV_PAGEOUT) != 0)
        fail(__FILE_NAME__, __LINE__, "MADV_PAGEOUT (errno %d)", errno);
}

// What the kernel counted before, and how many pages went out and came in since.
struct swapped {
    unsigned long out_before, in_before, out, in;
};

static int is_less(struct swapped *swapped, unsigned long least) {
    swapped->out = told(VMSTAT, "pswpout ") - swapped->out_before;
    swapped->in = told(VMSTAT, "pswpin ") - swapped->in_before;
    return swapped->out < least || swapped->in < least;
}

void pages_are_swapped_out(void) {
    struct guest g;
    struct swapped swapped = {told(VMSTAT, "pswpout "), told(VMSTAT, "pswpin "), 0, 0};
    start(&g, PLAIN);
    for (double began = now(); goes_on(began, few(&g, 3) || is_less(&swapped, 500));) {
        page_out_once(&g);
        usleep(any(1000));
    }
    stop(&g);
    note("%lu pages went out, %lu came in, %lu passes", swapped.out, swapped.in,
         (unsigned long)g.passes);
}

// KiB of this process's memory that are in huge pages.
static unsigned long huge(void) { return told("/proc/self/smaps", "AnonHugePages:"); }

void collapse_once(struct guest *g) {
    // Some page of it may be in use.
    madvise(g->data + any(BYTES / HUGE) * HUGE, HUGE, MADV_COLLAPSE);
}

static void split_all(struct guest *g) {
    for (size_t at = 0; at < BYTES && !failed(); at += HUGE) {
        size_t page = at / PAGE + any(HUGE / PAGE);
        uint8_t *one = g->data + page * PAGE;
        if (any(2)) {
            CHECK(mprotect(one, PAGE, PROT_READ) == 0);
            CHECK(mprotect(one, PAGE, PROT_READ | PROT_WRITE) == 0);
        } else if (g->shared->wanted[page] == PATTERN && take(g, page)) {
            CHECK(madvise(one, PAGE, MADV_DONTNEED) == 0);
            g->shared->wanted[page] = ZEROS;
        }
    }
}

void huge_pages_come_and_go(void) {
    struct guest g;
    unsigned long splits = 0;
    int times = 0;
    start(&g, PLAIN);
    if (madvise(g.data, BYTES, MADV_HUGEPAGE) != 0)
        fail(__FILE_NAME__, __LINE__, "MADV_HUGEPAGE (errno %d)", errno);
    for (double began = now(); goes_on(began, few(&g, 4) || times < 2); times++) {
        // Until most of it is in huge pages, by the kernel's own thread or at once.
        for (double since = now(); huge() < BYTES / 1024 * 3 / 4 && !failed();) {
            collapse_once(&g);
            if (now() - since > 60)
                fail(__FILE_NAME__, __LINE__, "only %lu KiB are in huge pages", huge());
        }
        reaches(&g.passes, g.passes + 2);
        // The kernel's thread may have put together again what was split first.
        unsigned long before = told(VMSTAT, SPLIT);
        split_all(&g);
        unsigned long now_split = told(VMSTAT, SPLIT) - before;
        if (now_split == 0)
            fail(__FILE_NAME__, __LINE__, "no huge page was split");
        splits += now_split;
        reaches(&g.passes, g.passes + 2);
    }
    stop(&g);
    note("%d times, %lu were split, %lu passes", times, splits, (unsigned long)g.passes);
}

int migrate_once(struct guest *g) {
    enum { MOST = 256 };
    void *pages[MOST];
    int nodes[MOST], status[MOST], node = any(2), moved = 0;
    uint8_t *first = any_page(g, MOST);
    for (size_t n = 0; n < MOST; n++)
        pages[n] = first + n * PAGE, nodes[n] = node, status[n] = -1;
    if (syscall(SYS_move_pages, 0, MOST, pages, nodes, status, MOVE_ALL_OF_ONE) < 0)
        return -1;
    for (size_t n = 0; n < MOST; n++)
        moved += status[n] == node;
    return moved;
}

void pages_are_migrated(void) {
    struct guest g;
    unsigned long moved = 0, before = told(VMSTAT, MIGRATED);
    start(&g, PLAIN);
    for (double began = now(); goes_on(began, few(&g, 4) || moved < 1000);) {
        if (migrate_once(&g) < 0)
            fail(__FILE_NAME__, __LINE__, "move_pages (errno %d)", errno);
        moved = told(VMSTAT, MIGRATED) - before;
        usleep(any(1000));
    }
    stop(&g);
    note("%lu pages, %lu passes", moved, (unsigned long)g.passes);
}

int move_thread_once(struct guest *g) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(any(sysconf(_SC_NPROCESSORS_ONLN)), &set);
    return sched_setaffinity(g->thread_id, sizeof set, &set);
}

void threads_are_moved(void) {
    enum { GUESTS = 3 };
    struct guest g[GUESTS];
    unsigned long times = 0, moves = 0, passes = 0, least = 0;
    for (int n = 0; n < GUESTS; n++)
        start(&g[n], PLAIN);
    for (double began = now(); goes_on(began, least < 3); times++) {
        // Each has been seen elsewhere.
        least = g[0].moves;
        for (int n = 1; n < GUESTS; n++)
            least = g[n].moves < least ? g[n].moves : least;
        if (move_thread_once(&g[any(GUESTS)]) != 0)
            fail(__FILE_NAME__, __LINE__, "sched_setaffinity (errno %d)", errno);
        usleep(any(2000));
    }
    for (int n = 0; n < GUESTS; n++) {
        stop(&g[n]);
        moves += g[n].moves, passes += g[n].passes;
    }
    note("%lu times, seen elsewhere %lu times, %lu passes", times, moves, passes);
}
