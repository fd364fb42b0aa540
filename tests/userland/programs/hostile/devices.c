// What each device is asked for, what it has to answer, and what is wrong in its own terms.
//
// See: VIRTIO 1.2, 5.2 to 5.5, 5.10.
#include "hostile.h"

// Offers a chain of `readable` bytes of the first buffer, and of `writable` bytes of the second one; either may be none.
static void send_pair(struct function *f, unsigned queue, uint32_t readable, uint32_t writable) {
    unsigned first = readable ? 0 : 1;
    describe(rings(queue), 0, at(buffer(0)), readable, writable ? NEXT : 0, 1);
    describe(rings(queue), 1, at(buffer(1)), writable, WRITE, 0);
    send(f, queue, first);
}

// What is wrong has to be answered by a request for reset.
static void is_refused(struct function *f, const char *name) {
    if (!asks_for_reset(f))
        wrong(f, name, "it does not ask for reset");
    must_work(f, name);
}

// Disks.

enum { IN = 0, OUT = 1, DISCARD = 11, WRITE_ZEROES = 13, UNKNOWN = 99 };
enum { OK = 0, FAILED = 1, UNSUPPORTED = 2 };
#define READ_ONLY (1u << 5)
#define DISCARDS (1u << 13)

// A header, data of so many bytes that the device reads or writes, and the status.
static void request_with(struct function *f, uint32_t type, uint64_t sector, void *data,
                         uint32_t size) {
    uint32_t header[4] = {type, 0, sector, sector >> 32};
    memcpy(buffer(0), header, sizeof header);
    describe(rings(0), 0, at(buffer(0)), 16, NEXT, size ? 1 : 2);
    describe(rings(0), 1, at(data), size, NEXT | (type == IN ? WRITE : 0), 2);
    describe(rings(0), 2, at(buffer(2)), 1, WRITE, 0);
    *buffer(2) = 0xff;
    send(f, 0, 0);
}

static void request(struct function *f, uint32_t type, uint64_t sector, uint32_t size) {
    request_with(f, type, sector, buffer(1), size);
}

static void read_disk(struct function *f) { request(f, IN, 0, sizeof f->known); }

// More than what is short, as often as the queue holds.
static void read_more(struct function *f) {
    request_with(f, IN, 0, buffer(64), 128 * PAGE);
    for (unsigned n = 1; n < SIZE; n++)
        offer(f, 0, 0);
    notify(f, 0);
}

static const char *disk_is_read(struct function *f) {
    if (fate(f, 0) != WAS_USED)
        return "no answer";
    if (*buffer(2) != OK || written(f, 0) != sizeof f->known + 1)
        return "the sectors are not read";
    if (!f->is_known)
        memcpy(f->known, buffer(1), sizeof f->known);
    f->is_known = 1;
    return memcmp(f->known, buffer(1), sizeof f->known) ? "they have other bytes" : NULL;
}

// The status has to be one of two.
static void has_status(struct function *f, const char *name, uint8_t one, uint8_t other) {
    f->cases++;
    if (fate(f, 0) != WAS_USED)
        wrong(f, name, "no answer");
    else if (*buffer(2) != one && *buffer(2) != other)
        wrong(f, name, "status %u", *buffer(2));
}

static void wrong_requests(struct function *f) {
    uint64_t sectors = get(f, f->device, 4) | get(f, f->device + 4, 4) << 32;
    set_up(f, ~0ul);
    int is_read_only = (f->features & READ_ONLY) != 0;
    request(f, UNKNOWN, 0, 512), has_status(f, "no such request", UNSUPPORTED, UNSUPPORTED);
    request(f, IN, sectors, 512), has_status(f, "behind the end", FAILED, FAILED);
    request(f, IN, sectors - 1, 1024), has_status(f, "over the end", FAILED, FAILED);
    request(f, IN, ~0ul, 512), has_status(f, "no sector", FAILED, FAILED);
    request(f, IN, 1ul << 55, 512), has_status(f, "an offset without end", FAILED, FAILED);
    request(f, IN, 0, 100), has_status(f, "part of a sector", FAILED, FAILED);
    request(f, OUT, sectors, 512), has_status(f, "written behind the end", FAILED, FAILED);
    request(f, OUT, 0, 511), has_status(f, "part of a sector written", FAILED, FAILED);
    if (is_read_only)
        request(f, OUT, 0, 512), has_status(f, "written though read-only", FAILED, FAILED);
    // Their ranges are what buffers are filled with.
    request(f, DISCARD, 0, 16), has_status(f, "nonsense discarded", FAILED, UNSUPPORTED);
    request(f, WRITE_ZEROES, 0, 16), has_status(f, "nonsense cleared", FAILED, UNSUPPORTED);
    request(f, WRITE_ZEROES, 0, 15), has_status(f, "part of a range", FAILED, UNSUPPORTED);
    request(f, DISCARD, 0, 4096), has_status(f, "many ranges", FAILED, UNSUPPORTED);
    must_work(f, "wrong requests");
    send_pair(f, 0, 8, 1), is_refused(f, "half a header");
    send_pair(f, 0, 0, 513), is_refused(f, "no header");
    send_pair(f, 0, 528, 0), is_refused(f, "nowhere for the status");
}

// Entropy.

static void ask_for_entropy(struct function *f) { send_pair(f, 0, 0, 64); }

static const char *is_entropy(struct function *f) {
    unsigned same = 0;
    if (fate(f, 0) != WAS_USED)
        return "no answer";
    for (unsigned n = 0; n < 64; n++)
        same += buffer(1)[n] == f->kind->filler;
    return written(f, 0) != 64 ? "not 64 bytes" : same > 32 ? "they are not random" : NULL;
}

static void wrong_entropy(struct function *f) {
    set_up(f, ~0ul);
    send_pair(f, 0, 64, 0);
    if (fate(f, 0) != WAS_USED || written(f, 0) != 0)
        wrong(f, "nowhere for entropy", "no answer");
    send_pair(f, 0, 64, 16);
    if (fate(f, 0) != WAS_USED || written(f, 0) > 16)
        wrong(f, "little room for entropy", "%u bytes", written(f, 0));
    must_work(f, "wrong requests");
}

// Balloons.

enum { INFLATE = 0, DEFLATE = 1, REPORT = 4 };

static void report_a_page(struct function *f) {
    memset(buffer(1), 0x5a, PAGE);
    send_pair(f, REPORT, 0, PAGE);
}

static const char *page_is_given_back(struct function *f) {
    if (fate(f, REPORT) != WAS_USED)
        return "no answer";
    for (unsigned n = 0; n < PAGE; n++) {
        if (buffer(1)[n] != 0)
            return "the page is not given back";
    }
    return NULL;
}

static void wrong_pages(struct function *f) {
    set_up(f, ~0ul);
    for (unsigned queue = INFLATE; queue <= DEFLATE; queue++) {
        // Each number is that of no page.
        send_pair(f, queue, 32 * PAGE, 0), fate(f, queue);
        send_pair(f, queue, 3, 0), fate(f, queue);
        send_pair(f, queue, 0, 4), fate(f, queue);
    }
    for (unsigned offset = 0; offset < 32; offset++) {
        for (unsigned size = 1; size <= 8; size *= 2)
            set(f, f->device + offset, size, ~0ul);
    }
    send_pair(f, REPORT, 0, 3);
    must_work(f, "wrong pages");
}

// Sockets.

enum { TO_GUEST = 0, FROM_GUEST = 1 };
enum { REQUEST = 1, RST = 3, RW = 5, CREDIT_UPDATE = 6 };

struct packet {
    uint64_t from, to;
    uint32_t from_port, to_port, size;
    uint16_t type, op;
    uint32_t flags, room, taken;
} __attribute__((packed));

static void send_packet(struct function *f, struct packet packet, uint32_t bytes) {
    memcpy(buffer(0), &packet, sizeof packet);
    describe(rings(FROM_GUEST), 0, at(buffer(0)), bytes, 0, 0);
    send(f, FROM_GUEST, 0);
}

static void receive(struct function *f, unsigned index, uint32_t size) {
    describe(rings(TO_GUEST), index, at(buffer(1 + index)), size, WRITE, 0);
    send(f, TO_GUEST, index);
}

static const struct packet CONNECT = {
    .from = 3, .to = 2, .from_port = 1025, .to_port = 0x7fffffff, .type = 1, .op = REQUEST,
    .room = PAGE,
};

static void connect_to_nobody(struct function *f) {
    receive(f, 0, PAGE);
    send_packet(f, CONNECT, sizeof CONNECT);
}

static const char *connection_is_refused(struct function *f) {
    struct packet answer;
    if (fate(f, TO_GUEST) != WAS_USED)
        return "no answer";
    memcpy(&answer, buffer(1), sizeof answer);
    return answer.op == RST && answer.to_port == 1025 ? NULL : "another answer";
}

static void wrong_packets(struct function *f) {
    static const struct packet STRANGE[] = {
        {.from = 77, .to = 2, .type = 1, .op = REQUEST},
        {.from = 3, .to = 99, .type = 1, .op = REQUEST},
        {.from = 3, .to = 2, .type = 7, .op = REQUEST},
        {.from = 3, .to = 2, .type = 1, .op = 200},
        {.from = ~0ul, .to = ~0ul, .from_port = ~0u, .to_port = ~0u, .type = 1, .op = RW},
        {.from = 3, .to = 2, .type = 1, .op = CREDIT_UPDATE, .room = ~0u, .taken = ~0u},
        {.from = 3, .to = 2, .type = 1, .op = RST, .flags = ~0u},
    };
    set_up(f, ~0ul);
    for (unsigned n = 0; n < SIZE; n++)
        receive(f, n, PAGE);
    for (unsigned n = 0; n < COUNT(STRANGE); n++) {
        send_packet(f, STRANGE[n], sizeof STRANGE[n]);
        if (fate(f, FROM_GUEST) != WAS_USED)
            wrong(f, "strange packets", "number %u is not taken", n);
    }
    must_work(f, "strange packets");
    struct packet long_one = CONNECT;
    send_packet(f, CONNECT, 20), is_refused(f, "half a packet's header");
    long_one.size = 4096;
    send_packet(f, long_one, 64), is_refused(f, "a packet that ends early");
    long_one.size = ~0u;
    send_packet(f, long_one, 64), is_refused(f, "a packet of 4 GiB");
    receive(f, 0, 10);
    send_packet(f, CONNECT, sizeof CONNECT), is_refused(f, "no room for a header");
}

// Consoles.

enum { CONTROL_RECEIVE = 2, CONTROL_TRANSMIT = 3 };
enum { DEVICE_READY = 0, PORT_ADD = 1, PORT_READY = 3, PORT_OPEN = 6 };

static void say(struct function *f, uint32_t port, uint16_t event, uint16_t value, uint32_t size) {
    memcpy(buffer(0), &port, 4), memcpy(buffer(0) + 4, &event, 2), memcpy(buffer(0) + 6, &value, 2);
    send_pair(f, CONTROL_TRANSMIT, size, 0);
}

static void ask_for_ports(struct function *f) {
    send_pair(f, CONTROL_RECEIVE, 0, PAGE);
    say(f, 0, DEVICE_READY, 1, 8);
}

static const char *there_is_a_port(struct function *f) {
    uint16_t event;
    if (fate(f, CONTROL_RECEIVE) != WAS_USED)
        return "no answer";
    memcpy(&event, buffer(1) + 4, 2);
    return event == PORT_ADD ? NULL : "another answer";
}

static void wrong_words(struct function *f) {
    set_up(f, ~0ul);
    for (unsigned event = 0; event < 12; event++) {
        for (unsigned n = 0; n < 4; n++) {
            static const uint32_t PORTS[] = {4, 31, 0x7fffffff, ~0u};
            say(f, PORTS[n], event, n % 2, 8), fate(f, CONTROL_TRANSMIT);
        }
        say(f, 0, event, 1, event % 7 + 1), fate(f, CONTROL_TRANSMIT);
        // Nothing of this needs more than a word each.
        send_pair(f, CONTROL_RECEIVE, 0, 1);
    }
    must_work(f, "wrong words");
}

const struct kind KINDS[] = {
    {"blk", BLOCK, ~0u, 0xff, read_disk, read_more, disk_is_read, wrong_requests},
    // Of each port what it receives into is looked at when there is something for it.
    {"console", CONSOLE, 0xaaaa, '~', ask_for_ports, NULL, there_is_a_port, wrong_words},
    {"rng", ENTROPY, ~0u, 0xff, ask_for_entropy, NULL, is_entropy, wrong_entropy},
    {"balloon", BALLOON, ~0u, 0xff, report_a_page, NULL, page_is_given_back, wrong_pages},
    {"vsock", SOCKETS, 1 << TO_GUEST | 1 << FROM_GUEST, 0xff, connect_to_nobody, NULL,
     connection_is_refused, wrong_packets},
};

const struct kind *kind_of(unsigned type) {
    for (unsigned n = 0; n < COUNT(KINDS); n++) {
        if (KINDS[n].type == type)
            return &KINDS[n];
    }
    return NULL;
}
