// Resets, and changes of what a function is, while requests are made by another thread.
#include "hostile.h"

static atomic_int stops;

// Offers requests in no order with what else is done to the device. All that is named is the program's own.
static void *requests(void *argument) {
    struct function *f = argument;
    for (unsigned n = 0; !stops; n++) {
        n % 2 && f->kind->burden ? f->kind->burden(f) : f->kind->ask(f);
        for (unsigned queue = 0; queue < f->queues; queue++)
            notify(f, queue);
        sched_yield();
    }
    return NULL;
}

static void while_requests_are_made(struct function *f, const char *name,
                                    void (*disturb)(struct function *, unsigned)) {
    pthread_t thread;
    stops = 0;
    set_up(f, ~0ul);
    if (pthread_create(&thread, NULL, requests, f) != 0) {
        wrong(f, name, "no thread");
        return;
    }
    for (unsigned n = 0; n < 10 + 4 * rounds; n++) {
        disturb(f, n);
        n % 3 ? sched_yield() : usleep(any(300));
    }
    stops = 1;
    pthread_join(thread, NULL);
    must_work(f, name);
}

static void reset_it(struct function *f, unsigned n) {
    set_status(f, 0);
    if (status(f) != 0)
        wrong(f, "resets under requests", "the status is %#x", status(f));
    if (n % 4)
        set_up(f, any(2) ? ~0ul : any(1ul << 32));
}

static void move_it(struct function *f, unsigned n) {
    configure(f, BAR0, 4, f->place + (n % 2 << 26));
    configure(f, COMMAND, 2, any(4) ? MEMORY | BUS_MASTER | NO_LINE : NO_LINE);
    sched_yield();
    configure(f, BAR0, 4, f->place);
    configure(f, COMMAND, 2, MEMORY | BUS_MASTER | NO_LINE);
}

static void mask_it(struct function *f, unsigned n) {
    unsigned vector = any(f->vectors);
    set(f, f->table + vector * 16, 8, 0xfee00000);
    set(f, f->table + vector * 16 + 8, 8, 0x51ul | (uint64_t)(n & 1) << 32);
    set(f, f->common + QUEUE_SELECT, 2, 0), set(f, f->common + QUEUE_VECTOR, 2, vector);
    configure(f, f->msix + 2, 2, any(4) << 14);
}

// Requests that are wrong as often as not: whoever asks for reset gets it at any time.
static void break_it(struct function *f, unsigned n) {
    unsigned queue = any(f->queues);
    describe(rings(queue), 0, at(buffer(3)), 16, n % 2 ? NEXT : 0, n % 4);
    offer(f, queue, n % 5 ? 0 : 0xffff);
    notify(f, queue);
    if (n % 3 == 0)
        set_up(f, ~0ul);
}

void moments(struct function *f) {
    while_requests_are_made(f, "resets under requests", reset_it);
    while_requests_are_made(f, "moved under requests", move_it);
    while_requests_are_made(f, "messages under requests", mask_it);
    configure(f, f->msix + 2, 2, 0);
    while_requests_are_made(f, "broken under requests", break_it);
    // The last moment of all: the device's work and its reset.
    for (unsigned n = 0; n < 4 + rounds; n++) {
        set_up(f, ~0ul);
        f->kind->burden ? f->kind->burden(f) : f->kind->ask(f);
        reset(f);
        if (!set_up(f, ~0ul))
            wrong(f, "reset at once", "it is not ready again");
    }
    must_work(f, "reset at once");
}
