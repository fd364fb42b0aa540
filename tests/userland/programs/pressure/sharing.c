// Pages that are shared until somebody writes: with a child, or with pages that are alike.
#include "pressure.h"

#define ALIKE_PAGES 256ul
#define KSM "/sys/kernel/mm/ksm/"

static uint64_t sum(const struct guest *g) {
    uint64_t sum = 0;
    for (size_t at = 0; at < BYTES; at += CELL)
        sum = sum * 31 + *(volatile uint64_t *)(g->data + at);
    return sum;
}

// In the child: what it has stays as it is whatever the guest writes, and is none of before.
static int child(const struct guest *g, uint64_t round, int go) {
    const uint64_t before = sum(g);
    char byte;
    for (size_t at = 0; at < BYTES; at += CELL) {
        uint64_t of = *(volatile uint64_t *)(g->data + at) ^ pattern(g, DATA + at, 0);
        if (of < round || of > round + 1000)
            return 2;
    }
    // Until the guest has written to all pages, or the parent is gone.
    return read(go, &byte, 1) != 1 || sum(g) != before;
}

void a_child_has_the_pages_of_its_time(void) {
    struct guest g;
    int forks = 0, go[2], status;
    start(&g, PLAIN);
    if (pipe(go) != 0)
        fail(__FILE_NAME__, __LINE__, "pipe (errno %d)", errno);
    for (double began = now(); goes_on(began, few(&g, 4) || forks < 2); forks++) {
        uint64_t round = g.shared->round;
        pid_t pid = fork();
        if (pid == 0) {
            close(go[1]);
            _exit(child(&g, round, go[0]));
        }
        // One pass may be under way.
        reaches(&g.passes, g.passes + 2);
        if (pid < 0 || write(go[1], "x", 1) != 1 || waitpid(pid, &status, 0) != pid)
            fail(__FILE_NAME__, __LINE__, "fork (errno %d)", errno);
        else if (status != 0)
            fail(__FILE_NAME__, __LINE__, "the child ended with status %#x", status);
    }
    stop(&g);
    close(go[0]), close(go[1]);
    note("%d children, %lu passes", forks, (unsigned long)g.passes);
}

void alike_pages_are_merged(void) {
    struct guest g;
    unsigned long most = 0;
    int times = 0;
    start(&g, ALIKE);
    // A part of them, for the kernel takes its time.
    if (madvise(any_page(&g, ALIKE_PAGES), ALIKE_PAGES * PAGE, MADV_MERGEABLE) != 0)
        fail(__FILE_NAME__, __LINE__, "MADV_MERGEABLE (errno %d)", errno);
    for (double began = now(); goes_on(began, few(&g, 4) || times < 1); times++) {
        // Only what has not changed for a while is merged.
        g.shared->reads_only = 1;
        unsigned long sharing = 0;
        for (double since = now(); sharing < ALIKE_PAGES / 2 && !failed(); usleep(1000)) {
            sharing = told(KSM "pages_sharing", "");
            if (now() - since > 120)
                fail(__FILE_NAME__, __LINE__, "only %lu pages were merged", sharing);
        }
        most = sharing > most ? sharing : most;
        // It looks at all of them, and then writes to each.
        reaches(&g.passes, g.passes + 2);
        g.shared->reads_only = 0;
        reaches(&g.passes, g.passes + 3);
    }
    stop(&g);
    note("%d times, %lu pages shared another's, %lu passes", times, most, (unsigned long)g.passes);
}
