// Chains that are none, in each queue that there is.
//
// See: VIRTIO 1.2, 2.7.5, 2.7.6.
#include "hostile.h"

// What a descriptor names: a buffer, or a table of descriptors.
enum place { BUFFER, TABLE };

struct part {
    enum place place;
    uint32_t size;
    unsigned flags, next;
};

// A chain that begins at `head`, and what is in a table that it names.
struct chain {
    const char *name;
    enum expected expected;
    unsigned head;
    struct part parts[3], table[3];
};

#define MORE (SIZE * 16)

static const struct chain CHAINS[] = {
    {"a loop", RESET, 0, {{BUFFER, 16, NEXT, 1}, {BUFFER, 16, NEXT, 0}}, {}},
    {"a loop of one", RESET, 0, {{BUFFER, 16, NEXT, 0}}, {}},
    {"a loop to write to", RESET, 0,
     {{BUFFER, 16, NEXT | WRITE, 1}, {BUFFER, 16, NEXT | WRITE, 0}}, {}},
    {"next is behind the table", RESET, 0, {{BUFFER, 16, NEXT, SIZE}}, {}},
    {"next is nowhere", RESET, 0, {{BUFFER, 16, NEXT, 0xffff}}, {}},
    {"the head is behind the table", RESET, SIZE, {{BUFFER, 16, 0, 0}}, {}},
    {"the head is nowhere", RESET, 0xffff, {{BUFFER, 16, 0, 0}}, {}},
    {"longer than memory", RESET, 0, {{BUFFER, 0xffffffff, 0, 0}}, {}},
    {"longer than memory to write to", RESET, 0, {{BUFFER, 0xffffffff, WRITE, 0}}, {}},
    {"longer than there may be", RESET, 0,
     {{BUFFER, 0xfffffff0, NEXT, 1}, {BUFFER, 0xfffffff0, NEXT, 2}, {BUFFER, 16, WRITE, 0}}, {}},
    {"written before it is read", RESET, 0,
     {{BUFFER, 16, NEXT | WRITE, 1}, {BUFFER, 16, 0, 0}}, {}},
    {"nothing", EITHER, 0, {{BUFFER, 0, 0, 0}}, {}},
    {"nothing to write to", EITHER, 0, {{BUFFER, 0, WRITE, 0}}, {}},
    {"flags that there are not", EITHER, 0, {{BUFFER, 16, 0xfff8, 0}}, {}},
    {"a table of no whole entries", RESET, 0, {{TABLE, 17, INDIRECT, 0}}, {{BUFFER, 16, 0, 0}}},
    {"a table of less than an entry", RESET, 0, {{TABLE, 15, INDIRECT, 0}}, {{BUFFER, 16, 0, 0}}},
    {"an empty table", RESET, 0, {{TABLE, 0, INDIRECT, 0}}, {{BUFFER, 16, 0, 0}}},
    {"a table longer than memory", RESET, 0,
     {{TABLE, 0xfffffff0, INDIRECT, 0}}, {{BUFFER, 16, NEXT, 0}}},
    {"a table of 65,536 entries", RESET, 0,
     {{TABLE, 0x100000, INDIRECT, 0}}, {{BUFFER, 16, NEXT, 0}}},
    {"a table in a table", RESET, 0, {{TABLE, 48, INDIRECT, 0}}, {{TABLE, 48, INDIRECT, 0}}},
    {"a table in a table, later", RESET, 0,
     {{TABLE, 48, INDIRECT, 0}}, {{BUFFER, 16, NEXT, 1}, {TABLE, 48, INDIRECT, 0}}},
    {"a loop in a table", RESET, 0,
     {{TABLE, 48, INDIRECT, 0}}, {{BUFFER, 16, NEXT, 1}, {BUFFER, 16, NEXT, 0}}},
    {"next is behind a table in memory", RESET, 0,
     {{TABLE, 48, INDIRECT, 0}}, {{BUFFER, 16, NEXT, 3}}},
    {"wrong order in a table", RESET, 0,
     {{TABLE, 32, INDIRECT, 0}}, {{BUFFER, 16, NEXT | WRITE, 1}, {BUFFER, 16, 0, 0}}},
    {"a table and what is next", EITHER, 0,
     {{TABLE, 16, INDIRECT | NEXT, 1}, {BUFFER, 16, 0, 0}}, {{BUFFER, 16, 0, 0}}},
    {"a table to write to", EITHER, 0, {{TABLE, 16, INDIRECT | WRITE, 0}}, {{BUFFER, 16, 0, 0}}},
    {"a table behind a buffer", EITHER, 0,
     {{BUFFER, 16, NEXT, 1}, {TABLE, 16, INDIRECT, 0}}, {{BUFFER, 16, WRITE, 0}}},
};

// Where the table is: behind the buffers that are filled.
static uint8_t *table(void) { return buffer(40); }

static uint64_t place(const struct part *part, unsigned n) {
    return part->place == TABLE ? at(table()) : at(buffer(10 + n));
}

// What was sent has to come to what is expected, and nothing of it is answered.
static void comes_to(struct function *f, unsigned queue, enum expected expected, const char *name) {
    char full[96];
    snprintf(full, sizeof full, "queue %u: %s", queue, name);
    if (expected == RESET && f->kind->served >> queue & 1) {
        if (!asks_for_reset(f))
            wrong(f, full, "it does not ask for reset");
        if (used_index(queue) != 0)
            wrong(f, full, "it answers");
        // Nothing comes of what follows.
        notify(f, queue);
        if (!(status(f) & NEEDS_RESET))
            wrong(f, full, "it forgets that");
    }
    must_work(f, full);
}

static void send_chain(struct function *f, unsigned queue, const struct chain *chain) {
    set_up(f, ~0ul);
    for (unsigned n = 0; n < COUNT(chain->parts); n++) {
        const struct part *outer = &chain->parts[n], *inner = &chain->table[n];
        describe(rings(queue), n, place(outer, n), outer->size, outer->flags, outer->next);
        describe(table(), n, place(inner, n), inner->size, inner->flags, inner->next);
    }
    send(f, queue, chain->head);
    comes_to(f, queue, chain->expected, chain->name);
}

// A buffer, and then a table, at each address where there is no memory.
static void nowhere(struct function *f, unsigned queue) {
    const uint64_t PLACES[] = {
        1ul << 40,          ~0xffful,          ~0ul - 7,     f->place + f->common, 0xe0000000,
        0xfee00000,         end_of_memory,     end_of_memory - 8,
    };
    for (unsigned n = 0; n < COUNT(PLACES); n++) {
        static const unsigned FLAGS[] = {0, WRITE, INDIRECT};
        for (unsigned flags = 0; flags < COUNT(FLAGS); flags++) {
            char name[64];
            snprintf(name, sizeof name, "flags %u at %#lx", FLAGS[flags], PLACES[n]);
            set_up(f, ~0ul);
            describe(rings(queue), 0, PLACES[n], 16, FLAGS[flags], 0);
            send(f, queue, 0);
            comes_to(f, queue, RESET, name);
        }
    }
}

// More bytes than a chain may have, all of them in memory: it is not to be read for ever.
static void four_gigabytes(struct function *f, unsigned queue) {
    const uint64_t LOW = 1 << 20;
    uint64_t top = end_of_memory < 0xc0000000 ? end_of_memory : 0xc0000000;
    unsigned count = (1ul << 32) / (top - LOW) + 2;
    set_up(f, ~0ul);
    for (unsigned n = 0; n < count; n++)
        describe(table(), n, LOW, top - LOW, n + 1 < count ? NEXT : 0, n + 1);
    describe(rings(queue), 0, at(table()), count * 16, INDIRECT, 0);
    send(f, queue, 0);
    comes_to(f, queue, RESET, "more than 4 GiB");
}

// What is available is said by an index that may go on by as many entries as there are.
static void index_jumps(struct function *f, unsigned queue) {
    static const uint16_t STEPS[] = {SIZE + 1, 0x7fff, 0x8000, 0xffff};
    for (unsigned n = 0; n < COUNT(STEPS); n++) {
        char name[64];
        snprintf(name, sizeof name, "the index goes on by %u", STEPS[n]);
        set_up(f, ~0ul);
        f->available[queue] = STEPS[n] - 1;
        send(f, queue, 0);
        comes_to(f, queue, RESET, name);
    }
}

void chains(struct function *f) {
    // In the short form, not each port of a console.
    unsigned queues = rounds < LONG && f->queues > 4 ? 4 : f->queues;
    for (unsigned queue = 0; queue < queues; queue++) {
        for (unsigned n = 0; n < COUNT(CHAINS); n++)
            send_chain(f, queue, &CHAINS[n]);
        nowhere(f, queue);
        four_gigabytes(f, queue);
        index_jumps(f, queue);
    }
}
