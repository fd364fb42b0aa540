// What drivers do: a device is set up, chains are put into its queues, and come back.
//
// See: VIRTIO 1.2, 2.7, 3.1.1.
#include "hostile.h"

// How long a device may take for anything, in seconds: its threads may have to wait for a processor.
#define LIMIT 20.0

#define VERSION_1 (1ul << 32)

static uint64_t common(const struct function *f, unsigned offset, unsigned size) {
    return get(f, f->common + offset, size);
}

static void set_common(const struct function *f, unsigned offset, unsigned size, uint64_t value) {
    set(f, f->common + offset, size, value);
}

uint8_t status(const struct function *f) { return common(f, STATUS, 1); }

void set_status(const struct function *f, uint8_t value) { set_common(f, STATUS, 1, value); }

void reset(struct function *f) {
    set_status(f, 0);
    memset(arena, 0, QUEUES * PAGE);
    memset(f->available, 0, sizeof f->available);
    memset(f->used, 0, sizeof f->used);
}

int negotiate(struct function *f, uint64_t features) {
    set_status(f, ACKNOWLEDGE);
    set_status(f, ACKNOWLEDGE | DRIVER);
    f->features = 0;
    for (unsigned half = 0; half < 2; half++) {
        set_common(f, DEVICE_FEATURE_SELECT, 4, half);
        uint64_t offered = common(f, DEVICE_FEATURE, 4);
        f->features |= (offered << 32 * half) & (features | VERSION_1);
        set_common(f, DRIVER_FEATURE_SELECT, 4, half);
        set_common(f, DRIVER_FEATURE, 4, f->features >> 32 * half & 0xffffffff);
    }
    set_status(f, ACKNOWLEDGE | DRIVER | FEATURES_OK);
    return (status(f) & FEATURES_OK) != 0;
}

void give_queue(struct function *f, unsigned queue) {
    uint64_t place = at(rings(queue));
    set_common(f, QUEUE_SELECT, 2, queue);
    set_common(f, QUEUE_SIZE, 2, SIZE);
    set_common(f, QUEUE_DESC, 4, place);
    set_common(f, QUEUE_DESC + 4, 4, place >> 32);
    set_common(f, QUEUE_AVAIL, 4, place + AVAILABLE);
    set_common(f, QUEUE_AVAIL + 4, 4, place >> 32);
    set_common(f, QUEUE_USED, 4, place + USED);
    set_common(f, QUEUE_USED + 4, 4, place >> 32);
    // All ones while its memory is switched off.
    uint16_t off = common(f, QUEUE_NOTIFY_OFF, 2);
    f->notify_off[queue] = off < QUEUES ? off : 0;
    set_common(f, QUEUE_ENABLE, 2, 1);
}

int set_up(struct function *f, uint64_t features) {
    reset(f);
    memset(buffer(0), f->kind->filler, 32 * PAGE);
    if (!negotiate(f, features))
        return 0;
    for (unsigned queue = 0; queue < f->queues; queue++)
        give_queue(f, queue);
    set_status(f, ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
    return status(f) == (ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
}

void describe(void *table, unsigned index, uint64_t address, uint32_t size, unsigned flags,
              unsigned next) {
    volatile uint8_t *to = (volatile uint8_t *)table + index * 16;
    // Whenever a device looks, it is no more than there is.
    *(volatile uint32_t *)(to + 8) = 0;
    *(volatile uint64_t *)to = address;
    *(volatile uint16_t *)(to + 12) = flags;
    *(volatile uint16_t *)(to + 14) = next;
    *(volatile uint32_t *)(to + 8) = size;
}

void offer(struct function *f, unsigned queue, unsigned head) {
    volatile uint16_t *available = (volatile uint16_t *)(rings(queue) + AVAILABLE);
    available[2 + f->available[queue] % SIZE] = head;
    atomic_thread_fence(memory_order_seq_cst);
    available[1] = ++f->available[queue];
    atomic_thread_fence(memory_order_seq_cst);
}

void notify(const struct function *f, unsigned queue) {
    set(f, f->notify + f->notify_off[queue % QUEUES] * f->multiplier, 2, queue);
}

void send(struct function *f, unsigned queue, unsigned head) {
    offer(f, queue, head);
    notify(f, queue);
}

uint16_t used_index(unsigned queue) { return ((volatile uint16_t *)(rings(queue) + USED))[1]; }

uint32_t written(struct function *f, unsigned queue) {
    volatile uint32_t *used = (volatile uint32_t *)(rings(queue) + USED + 4);
    return used[(f->used[queue] - 1u) % SIZE * 2 + 1];
}

enum fate fate(struct function *f, unsigned queue) {
    double began = now();
    for (unsigned tries = 0; now() - began < LIMIT; tries++) {
        if (used_index(queue) != f->used[queue]) {
            f->used[queue]++;
            return WAS_USED;
        }
        // Each costs an exit.
        if (tries % 16 == 15 && status(f) & NEEDS_RESET)
            return ASKED_FOR_RESET;
        tries < 64 ? sched_yield() : usleep(50);
    }
    return NOTHING;
}

int asks_for_reset(struct function *f) {
    double began = now();
    for (unsigned tries = 0; now() - began < LIMIT; tries++) {
        if (status(f) & NEEDS_RESET)
            return 1;
        tries < 16 ? sched_yield() : usleep(50);
    }
    return 0;
}
