// Rounds of what nobody would think of: anything that is safe for the guest, in any order.
#include "hostile.h"

// An address that is the program's own, or nobody's.
static uint64_t any_address(struct function *f) {
    const uint64_t PLACES[] = {
        at(buffer(any(32))) + any(PAGE),
        at(rings(any(QUEUES))) + any(PAGE),
        1ul << 40,
        ~any(64),
        end_of_memory + any(PAGE),
        f->place + any(f->size),
        0xe0000000 + any(1 << 20),
    };
    return PLACES[any(4) ? any(2) : any(COUNT(PLACES))];
}

// At most to the end of what is the program's own; or anything, where it is wrong wherever it begins.
static uint32_t any_size(void) { return any(8) ? any(PAGE) : 0xffffffff - any(PAGE); }

static void any_chain(struct function *f, unsigned queue) {
    // There any bytes are numbers of pages that the guest loses.
    if (f->type == BALLOON && queue == 0)
        return;
    unsigned head = any(SIZE);
    for (unsigned n = any(5) + 1; n > 0; n--) {
        void *table = any(4) ? rings(queue) : buffer(40);
        unsigned flags = any(8) ? any(4) : any(8);
        unsigned index = any(4) ? head + n - 1 : any(SIZE);
        unsigned next = any(4) ? head + n : any(SIZE + 1);
        describe(table, index, any_address(f), any_size(), flags, next);
    }
    offer(f, queue, any(16) ? head : any(1 << 16));
    if (any(16) == 0)
        f->available[queue] += any(SIZE * 2);
    notify(f, queue);
}

// Registers and bytes of memory that decide where a device writes are left alone: rings, and messages.
static void any_access(struct function *f) {
    static const uint32_t NEVER = QUEUE_DESC - 3;
    uint32_t offset = any(f->size - 8);
    unsigned size = 1 << any(4);
    if (any(2)) {
        get(f, offset, size);
    } else if (offset < f->common + NEVER || offset >= f->common + QUEUE_USED + 8) {
        if (offset + 8 < f->table || offset >= f->table + 16 * f->vectors)
            set(f, offset, size, any(1ul << 32) << any(32));
    }
}

static void any_step(struct function *f) {
    unsigned queue = any(f->queues);
    switch (any(12)) {
    case 0: set_up(f, any(2) ? ~0ul : any(~0ul)); break;
    case 1: set_status(f, any(256)); break;
    case 2: case 3: any_access(f); break;
    case 4: configure(f, COMMAND, 2, any(8) ? MEMORY | BUS_MASTER | NO_LINE : NO_LINE); break;
    case 5: memset(buffer(any(32)), any(256), PAGE); break;
    case 6: f->kind->ask(f); break;
    case 7: notify(f, any(1 << 10)); break;
    default: any_chain(f, queue);
    }
}

void at_random(struct function *f) {
    for (unsigned round = 0; round < rounds; round++) {
        set_up(f, ~0ul);
        for (unsigned n = 0; n < 40; n++)
            any_step(f);
        configure(f, COMMAND, 2, MEMORY | BUS_MASTER | NO_LINE);
        must_work(f, "at random");
    }
}
