// All that may be done to a guest's memory at any time, in an order that the seed gives.
#include "pressure.h"

static void fork_once(void) {
    int status;
    pid_t pid = fork();
    if (pid == 0)
        _exit(0);
    CHECK(pid > 0 && waitpid(pid, &status, 0) == pid && status == 0);
}

void all_at_once(void) {
    struct guest g;
    unsigned long times = 0;
    start(&g, ALIKE | MAY_BE_ZERO);
    // There may be none of it here.
    madvise(g.data, BYTES, MADV_MERGEABLE);
    madvise(g.data, BYTES, MADV_HUGEPAGE);
    for (double began = now(); goes_on(began, few(&g, 4)); times++) {
        size_t count = 1 + any(16);
        switch (any(9)) {
        case 0:
            madvise(any_page(&g, count), count * PAGE, MADV_DONTNEED);
            break;
        case 1:
            protect_once(&g);
            break;
        case 2:
            move_once(&g);
            break;
        case 3:
            fork_once();
            break;
        case 4:
            page_out_once(&g);
            break;
        case 5:
            collapse_once(&g);
            break;
        case 6:
            // Nor another node.
            migrate_once(&g);
            break;
        case 7:
            move_thread_once(&g);
            break;
        case 8:
            g.shared->reads_only ^= 1;
        }
        usleep(any(1000));
    }
    stop(&g);
    note("%lu times, %lu passes, %lu times EFAULT", times, (unsigned long)g.passes,
         (unsigned long)g.faults);
}
