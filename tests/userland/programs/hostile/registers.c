// The common configuration as it is not meant: features, status and queues; and accesses of each size everywhere.
//
// See: VIRTIO 1.2, 2.1, 2.2, 4.1.4.3.
#include "hostile.h"

#define IS_READY (ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK)

static void put(struct function *f, unsigned offset, unsigned size, uint64_t value) {
    set(f, f->common + offset, size, value);
}

static uint64_t have(struct function *f, unsigned offset, unsigned size) {
    return get(f, f->common + offset, size);
}

static void take(struct function *f, uint32_t half, uint32_t features) {
    put(f, DRIVER_FEATURE_SELECT, 4, half);
    put(f, DRIVER_FEATURE, 4, features);
}

static uint32_t taken(struct function *f, uint32_t half) {
    put(f, DRIVER_FEATURE_SELECT, 4, half);
    return have(f, DRIVER_FEATURE, 4);
}

// Whether features are accepted.
static int are_accepted(struct function *f, uint32_t low, uint32_t high) {
    reset(f);
    put(f, STATUS, 1, ACKNOWLEDGE | DRIVER);
    take(f, 0, low), take(f, 1, high);
    put(f, STATUS, 1, ACKNOWLEDGE | DRIVER | FEATURES_OK);
    return (status(f) & FEATURES_OK) != 0;
}

static void wrong_features(struct function *f) {
    const char *name = "features";
    put(f, DEVICE_FEATURE_SELECT, 4, 0);
    uint32_t low = have(f, DEVICE_FEATURE, 4);
    put(f, DEVICE_FEATURE_SELECT, 4, 1);
    uint32_t high = have(f, DEVICE_FEATURE, 4);
    for (unsigned bit = 0; bit < 32; bit++) {
        if (~low >> bit & 1 && are_accepted(f, 1u << bit, 1))
            wrong(f, name, "bit %u was not offered, and is taken", bit);
        if (~high >> bit & 1 && are_accepted(f, 0, 1u << bit | 1))
            wrong(f, name, "bit %u was not offered, and is taken", 32 + bit);
    }
    if (are_accepted(f, low, 0))
        wrong(f, name, "it is a legacy device");
    if (!are_accepted(f, low, 1))
        wrong(f, name, "what was offered is not taken");
    take(f, 0, 0), take(f, 1, 0), take(f, 2, ~0u), take(f, ~0u, ~0u);
    if (taken(f, 0) != low || taken(f, 1) != 1 || taken(f, 2) != 0)
        wrong(f, name, "they change though they were taken");
    put(f, DEVICE_FEATURE_SELECT, 4, 2);
    if (have(f, DEVICE_FEATURE, 4) != 0)
        wrong(f, name, "there are more than 64");
    must_work(f, name);
}

static void wrong_order(struct function *f) {
    const char *name = "ready without features";
    reset(f);
    for (unsigned queue = 0; queue < f->queues; queue++)
        give_queue(f, queue);
    put(f, STATUS, 1, ACKNOWLEDGE | DRIVER | DRIVER_OK);
    f->kind->ask(f);
    if (status(f) & FEATURES_OK)
        wrong(f, name, "they are taken");
    for (unsigned queue = 0; queue < f->queues; queue++) {
        if (used_index(queue) != 0)
            wrong(f, name, "queue %u is served", queue);
    }
    must_work(f, name);
    reset(f);
    f->kind->ask(f);
    must_work(f, "asked before anything");
    put(f, STATUS, 1, 0xff & ~NEEDS_RESET);
    must_work(f, "all of the status");
    // Bits are not cleared but all at once. The device's own is not the driver's.
    put(f, STATUS, 1, ACKNOWLEDGE);
    if (status(f) != IS_READY)
        wrong(f, "status", "it is %#x", status(f));
    put(f, STATUS, 1, IS_READY | NEEDS_RESET);
    if (status(f) != IS_READY)
        wrong(f, "status", "it is %#x", status(f));
    f->kind->ask(f);
    const char *why = f->kind->answer(f);
    if (why)
        wrong(f, "status", "%s", why);
    for (unsigned n = 0; n < 50; n++) {
        put(f, STATUS, 1, 0);
        if (status(f) != 0)
            wrong(f, "resets", "the status is %#x", status(f));
        put(f, STATUS, 1, n);
    }
    must_work(f, "resets");
}

// A queue's size is a power of 2, and no more than there is.
static void wrong_sizes(struct function *f) {
    static const uint16_t SIZES[] = {0, 3, 6, 0x1234, 0x7fff, 0x8000, 0xffff};
    reset(f), negotiate(f, ~0ul);
    for (unsigned queue = 0; queue < f->queues; queue++) {
        put(f, QUEUE_SELECT, 2, queue);
        uint16_t most = have(f, QUEUE_SIZE, 2);
        for (unsigned n = 0; n < COUNT(SIZES); n++) {
            put(f, QUEUE_SIZE, 2, SIZES[n]);
            uint16_t size = have(f, QUEUE_SIZE, 2);
            if (size == 0 || size & (size - 1) || size > most)
                wrong(f, "sizes", "queue %u has %u", queue, size);
        }
        put(f, QUEUE_SIZE, 2, 1);
        put(f, QUEUE_ENABLE, 2, 2), put(f, QUEUE_ENABLE, 2, 0xffff);
    }
    static const uint16_t NONE[] = {QUEUES + 48, 0x7fff, 0xffff};
    for (unsigned n = 0; n < COUNT(NONE); n++) {
        put(f, QUEUE_SELECT, 2, NONE[n]);
        put(f, QUEUE_SIZE, 2, SIZE), put(f, QUEUE_DESC, 8, ~0ul);
        put(f, QUEUE_VECTOR, 2, 0), put(f, QUEUE_ENABLE, 2, 1);
        if (have(f, QUEUE_SIZE, 2) != 0 || have(f, QUEUE_ENABLE, 2) != 0)
            wrong(f, "sizes", "there is a queue %u", NONE[n]);
    }
    put(f, STATUS, 1, IS_READY);
    must_work(f, "sizes");
}

// What is changed of a queue when it is too late is not changed.
static void late_changes(struct function *f) {
    const char *name = "late changes";
    set_up(f, ~0ul);
    for (unsigned queue = 0; queue < f->queues; queue++) {
        put(f, QUEUE_SELECT, 2, queue);
        put(f, QUEUE_SIZE, 2, 4);
        for (unsigned offset = QUEUE_DESC; offset < QUEUE_USED + 8; offset += 4)
            put(f, offset, 4, ~0u);
        put(f, QUEUE_ENABLE, 2, 0);
        put(f, QUEUE_ENABLE, 2, 1);
    }
    f->kind->ask(f);
    const char *why = f->kind->answer(f);
    if (why)
        wrong(f, name, "%s", why);
    must_work(f, name);
}

// Notifications of queues that there are not, and of those that are not used.
static void wrong_notifications(struct function *f) {
    reset(f), negotiate(f, ~0ul);
    put(f, STATUS, 1, IS_READY);
    for (unsigned n = 0; n < 3; n++) {
        for (unsigned offset = 0; offset < PAGE; offset += n ? 68 : 4)
            set(f, f->notify + offset, 1 << n, n ? ~0ul : offset / 4);
    }
    must_work(f, "queues that are not used");
    for (unsigned queue = 0; queue < PAGE / 4; queue += 7)
        set(f, f->notify + queue * 4, 2, queue);
    must_work(f, "queues that there are not");
}

// Rings where there is no memory, and where they may not be.
void rings_out_of_place(struct function *f) {
    const uint64_t PLACES[] = {
        1ul << 40, ~0xffful, f->place, 0xe0000000, 0xfee00000, end_of_memory, end_of_memory - 16,
        at(rings(0)) + 1,
    };
    static const unsigned RINGS[] = {QUEUE_DESC, QUEUE_AVAIL, QUEUE_USED};
    for (unsigned n = 0; n < COUNT(PLACES) * COUNT(RINGS); n++) {
        char name[64];
        unsigned ring = RINGS[n % COUNT(RINGS)];
        uint64_t place = PLACES[n / COUNT(RINGS)];
        snprintf(name, sizeof name, "ring %#x at %#lx", ring, place);
        reset(f), negotiate(f, ~0ul);
        // Once it is given a queue is not changed.
        for (unsigned queue = 1; queue < f->queues; queue++)
            give_queue(f, queue);
        put(f, QUEUE_SELECT, 2, 0);
        put(f, QUEUE_SIZE, 2, SIZE);
        put(f, QUEUE_DESC, 8, at(rings(0)));
        put(f, QUEUE_AVAIL, 8, at(rings(0)) + AVAILABLE);
        put(f, QUEUE_USED, 8, at(rings(0)) + USED);
        put(f, ring, 4, place), put(f, ring + 4, 4, place >> 32);
        put(f, QUEUE_ENABLE, 2, 1);
        put(f, STATUS, 1, IS_READY);
        if (!asks_for_reset(f))
            wrong(f, name, "it does not ask for reset");
        f->kind->ask(f);
        must_work(f, name);
    }
    // One over the other, in memory that is ours: what comes of it is the driver's own doing.
    reset(f), negotiate(f, ~0ul);
    for (unsigned queue = 0; queue < f->queues; queue++) {
        put(f, QUEUE_SELECT, 2, queue);
        put(f, QUEUE_SIZE, 2, SIZE);
        for (unsigned n = 0; n < COUNT(RINGS); n++)
            put(f, RINGS[n], 8, at(rings(0)));
        put(f, QUEUE_ENABLE, 2, 1);
    }
    put(f, STATUS, 1, IS_READY);
    f->kind->ask(f);
    for (unsigned queue = 0; queue < f->queues; queue++)
        notify(f, queue);
    must_work(f, "rings over each other");
}

// Reads and writes of each size, at each place where one begins, ends, or lies across. Nothing that is written makes a device ready.
static void accesses(struct function *f) {
    static const uint64_t VALUES[] = {0, ~0ul, 0xaaaaaaaaaaaaaaaa};
    reset(f);
    for (unsigned size = 1; size <= 8; size *= 2) {
        for (uint32_t page = 0; page < f->size; page += PAGE) {
            for (unsigned offset = 0; offset < 96 && rounds >= LONG; offset++)
                get(f, page + offset, size);
            for (unsigned offset = PAGE - 8; offset + size <= PAGE; offset++)
                get(f, page + offset, size);
            // Over a page's end.
            if (page + PAGE < f->size)
                get(f, page + PAGE - 1, size);
        }
    }
    for (unsigned n = 0; n < COUNT(VALUES); n++) {
        for (uint32_t page = 0; page < f->size; page += PAGE) {
            for (unsigned offset = 0; offset < 64; offset++)
                set(f, page + offset, 1 << offset % 4, VALUES[n]);
            set(f, page + PAGE - 8, 8, VALUES[n]);
            if (page + PAGE < f->size)
                set(f, page + PAGE - 1, 4, VALUES[n]);
        }
        // What has to be read, changed and written in one is two accesses here.
        volatile uint32_t *place = (volatile uint32_t *)(f->bar + f->common + QUEUE_DESC);
        __atomic_fetch_add(place, 1, __ATOMIC_SEQ_CST);
    }
    must_work(f, "accesses of each size");
}

void registers(struct function *f) {
    wrong_features(f);
    wrong_order(f);
    wrong_sizes(f);
    late_changes(f);
    wrong_notifications(f);
    accesses(f);
}
