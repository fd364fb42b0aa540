// Pages that the guest must not write to for a while, or that are elsewhere: it writes to none of them meanwhile.
#include "pressure.h"

#define MOST 8

// Waits until the guest has come out at a page that it may not have more than once.
static int guest_is_out(struct guest *g, unsigned long faults) {
    return reaches(&g->faults, faults + 3);
}

// Looks whether pages stay as they are while the guest cannot write to them.
static void stay(struct guest *g, unsigned long faults, const uint8_t *pages, size_t size) {
    static uint8_t before[MOST * PAGE];
    memcpy(before, pages, size);
    if (guest_is_out(g, faults) && memcmp(before, pages, size) != 0)
        fail(__FILE_NAME__, __LINE__, "the guest has written where it could not any more");
}

void protect_once(struct guest *g) {
    size_t size = (1 + any(MOST)) * PAGE;
    uint8_t *pages = any_page(g, size / PAGE);
    unsigned long faults = g->faults;
    CHECK(mprotect(pages, size, any(4) ? PROT_READ : PROT_NONE) == 0);
    // Most times the guest need not have noticed before it is over; one that only reads does not.
    if (any(4) == 0 && !g->shared->reads_only) {
        CHECK(mprotect(pages, size, PROT_READ) == 0);
        stay(g, faults, pages, size);
    }
    CHECK(mprotect(pages, size, PROT_READ | PROT_WRITE) == 0);
}

void move_once(struct guest *g) {
    size_t size = (1 + any(MOST)) * PAGE;
    uint8_t *pages = any_page(g, size / PAGE);
    unsigned long faults = g->faults;
    uint8_t *elsewhere = mmap(NULL, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    const int flags = MREMAP_MAYMOVE | MREMAP_FIXED;
    CHECK(elsewhere != MAP_FAILED && mremap(pages, size, size, flags, elsewhere) == elsewhere);
    if (any(4) == 0)
        stay(g, faults, elsewhere, size);
    CHECK(mremap(elsewhere, size, size, flags, pages) == pages);
}

static void again_and_again(void (*once)(struct guest *)) {
    struct guest g;
    unsigned long times = 0;
    start(&g, PLAIN);
    for (double began = now(); goes_on(began, few(&g, 4) || times < 20); times++) {
        once(&g);
        usleep(any(300));
    }
    stop(&g);
    note("%lu times, %lu passes, %lu times EFAULT", times, (unsigned long)g.passes,
         (unsigned long)g.faults);
}

void pages_are_protected(void) { again_and_again(protect_once); }

void pages_are_moved_to_another_address(void) { again_and_again(move_once); }
