// Pages that the VMM gives back, or maps something else in place of.
#include "pressure.h"

#define BATCH 64

// At any time: a cell is then zero until the guest writes to it.
void pages_are_dropped(void) {
    struct guest g;
    unsigned long drops = 0;
    start(&g, MAY_BE_ZERO);
    for (double began = now(); goes_on(began, few(&g, 4)); drops++) {
        size_t count = 1 + any(16);
        if (madvise(any_page(&g, count), count * PAGE, MADV_DONTNEED) != 0)
            fail(__FILE_NAME__, __LINE__, "MADV_DONTNEED (errno %d)", errno);
        usleep(any(300));
    }
    stop(&g);
    note("%lu times, %lu passes", drops, (unsigned long)g.passes);
}

// A page that the guest has left alone is all of one round.
static void is_whole(struct guest *g, size_t page) {
    uint64_t round = *(uint64_t *)(g->data + page * PAGE) ^ pattern(g, DATA + page * PAGE, 0);
    CHECK(round <= g->shared->round + 1);
    for (size_t at = page * PAGE; at < (page + 1) * PAGE; at += CELL)
        CHECK(*(uint64_t *)(g->data + at) == pattern(g, DATA + at, round));
}

// Has the guest leave `BATCH` pages alone one after the other, and gives the first.
static size_t take_batch(struct guest *g) {
    size_t first = any(PAGES - BATCH + 1);
    for (size_t page = first; page < first + BATCH && !failed(); page++) {
        // It is still to have what was given back last.
        for (double began = now(); g->shared->wanted[page] != PATTERN && !failed();) {
            if (now() - began > 60)
                fail(__FILE_NAME__, __LINE__, "the guest does not take page %zu", page);
            usleep(100);
        }
        g->shared->wanted[page] = WANTED;
    }
    for (size_t page = first; page < first + BATCH && take(g, page); page++)
        is_whole(g, page);
    return first;
}

static void give_back(struct guest *g, size_t first) {
    for (size_t page = first; page < first + BATCH; page++)
        g->shared->wanted[page] = ZEROS;
}

// Those that the guest is told of: it finds nothing but zeros, whatever its neighbours hold.
void dropped_pages_are_zeros(void) {
    struct guest g;
    unsigned long drops = 0, seen = 0;
    start(&g, PLAIN);
    for (double began = now(); goes_on(began, few(&g, 4));) {
        size_t first = take_batch(&g);
        for (size_t page = first; page < first + BATCH && !failed(); page++, drops++) {
            if (madvise(g.data + page * PAGE, PAGE, MADV_DONTNEED) != 0)
                fail(__FILE_NAME__, __LINE__, "MADV_DONTNEED (errno %d)", errno);
            // Some have the kernel's page of zeros, which the guest then writes to.
            if (any(2))
                seen += *(volatile uint64_t *)(g.data + page * PAGE);
        }
        if (seen)
            fail(__FILE_NAME__, __LINE__, "a page that was dropped is not zero");
        give_back(&g, first);
    }
    stop(&g);
    note("%lu pages, %lu passes", drops, (unsigned long)g.passes);
}

static int map_anew(struct guest *g, size_t first) {
    uint8_t *at = g->data + first * PAGE;
    const size_t size = BATCH * PAGE;
    int flags = MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS, file = -1;
    switch (any(3)) {
    case 0:
        if (munmap(at, size) != 0)
            return 0;
        break;
    case 1:
        // The kernel's pages of a file, which are shared.
        file = memfd_create("pages", MFD_CLOEXEC);
        if (file < 0 || ftruncate(file, size) != 0)
            return 0;
        flags = MAP_FIXED | MAP_SHARED;
    }
    int mapped = mmap(at, size, PROT_READ | PROT_WRITE, flags, file, 0) == at;
    if (file >= 0)
        close(file);
    return mapped;
}

void pages_are_mapped_anew(void) {
    struct guest g;
    unsigned long maps = 0;
    start(&g, PLAIN);
    for (double began = now(); goes_on(began, few(&g, 4)); maps++) {
        size_t first = take_batch(&g);
        if (!failed() && !map_anew(&g, first))
            fail(__FILE_NAME__, __LINE__, "mmap (errno %d)", errno);
        give_back(&g, first);
    }
    stop(&g);
    note("%lu times %d pages, %lu passes", maps, BATCH, (unsigned long)g.passes);
}
