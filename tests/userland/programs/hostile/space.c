// Configuration space, and what it says where a function's memory is and how it interrupts.
//
// See: PCI Local Bus Specification 3.0, 6.1, 6.2, 6.8.2; VIRTIO 1.2, 4.1.4.9.
#include "hostile.h"
#include <sys/io.h>
#include <sys/mman.h>

static void restore(struct function *f) {
    configure(f, BAR0, 4, f->place);
    configure(f, COMMAND, 2, MEMORY | BUS_MASTER | NO_LINE);
    configure(f, f->msix + 2, 2, 0);
}

// Whether the guest may not change a byte.
static int is_fixed(const struct function *f, unsigned offset) {
    int is_command = offset >= COMMAND && offset < 8, is_bar = offset >= BAR0 && offset < BAR0 + 4;
    int is_access = offset >= f->access + 4u && offset < f->access + 20u;
    int is_messages = offset == f->msix + 3u;
    return !is_command && !is_bar && !is_access && !is_messages && offset != 0x3c;
}

void configuration_space(struct function *f) {
    static const uint32_t VALUES[] = {0, ~0u, 0x55555555};
    const char *name = "configuration space";
    uint8_t before[256];
    for (unsigned offset = 0; offset < 256; offset++)
        before[offset] = configured(f, offset, 1);
    for (unsigned n = 0; n < COUNT(VALUES); n++) {
        // Where the memory is comes later, and until then nothing is to be ready.
        configure(f, COMMAND, 2, NO_LINE);
        for (unsigned offset = 0; offset < 256; offset++) {
            unsigned size = 1 << (offset + n) % 3;
            if (offset < COMMAND || offset >= BAR0 + 4)
                configure(f, offset, size, VALUES[n]), configured(f, offset, size);
        }
        restore(f);
        for (unsigned offset = 0; offset < 256; offset++) {
            if (is_fixed(f, offset) && configured(f, offset, 1) != before[offset])
                wrong(f, name, "byte %#x is %#x", offset, configured(f, offset, 1));
        }
    }
    must_work(f, name);
    // Nobody is there: another bus, another function, the last device; and the port with the address takes no less than all of it.
    static const uint32_t NOBODY[] = {0xffff00, 0x010000, 0x0000f8 << 8};
    for (unsigned n = 0; n < COUNT(NOBODY) + 7; n++) {
        uint32_t place = n < COUNT(NOBODY) ? NOBODY[n] : (f->number + n - COUNT(NOBODY) + 1) << 8;
        outl(1u << 31 | place, 0xcf8);
        if (inl(0xcfc) != ~0u)
            wrong(f, name, "somebody is at %#x", place);
        outl(0, 0xcfc), inw(0xcfd), inl(0xcfe), outw(0, 0xcfe), inb(0xcff), inw(0xcff);
    }
    outb(0x55, 0xcfa), inw(0xcf8), inb(0xcf8);
    // An access by configuration space, of sizes and at places that there are not.
    for (unsigned n = 0; n < 64; n++) {
        configure(f, f->access + 4, 1, n % 8);
        configure(f, f->access + 8, 4, n % 2 ? f->common + n : 0u - n);
        configure(f, f->access + 12, 4, n / 2 % 9);
        configured(f, f->access + 16 + n % 4, 1 << n % 3);
        configure(f, f->access + 16, 4, 0);
    }
    must_work(f, "accesses by configuration space");
}

// Reads the status where a function's memory is to be now, if this kernel lets it be seen.
static int is_at(struct function *f, uint64_t place, uint8_t expected) {
    int memory = open("/dev/mem", O_RDWR | O_SYNC);
    uint8_t *there = mmap(NULL, f->size, PROT_READ, MAP_SHARED, memory, place);
    int is = 1;
    if (there != MAP_FAILED) {
        is = *(volatile uint8_t *)(there + f->common + STATUS) == expected;
        munmap(there, f->size);
    }
    close(memory);
    return is;
}

// Its memory is moved and switched off, while requests are under way.
void placement(struct function *f) {
    const char *name = "moved";
    const uint32_t ELSEWHERE = f->place + (1 << 26);
    set_up(f, ~0ul);
    uint8_t ready = status(f);
    for (unsigned n = 0; n < 8; n++) {
        f->kind->ask(f);
        configure(f, BAR0, 4, ELSEWHERE + n % 3 * f->size);
        if (status(f) != 0xff)
            wrong(f, name, "it is still there");
        if (!is_at(f, ELSEWHERE + n % 3 * f->size, ready))
            wrong(f, name, "it is not where it was moved to");
        configure(f, BAR0, 4, f->place);
        const char *why = f->kind->answer(f);
        if (why)
            wrong(f, name, "%s", why);
        set_up(f, ~0ul);
    }
    must_work(f, name);
    f->kind->ask(f);
    for (unsigned n = 0; n < 8; n++) {
        configure(f, COMMAND, 2, n & 1 ? MEMORY | BUS_MASTER : NO_LINE);
        if ((status(f) == 0xff) != !(n & 1))
            wrong(f, name, "its memory is not as the command register says");
        notify(f, 0);
    }
    restore(f);
    must_work(f, "switched off and on");
    // Where something else is. What was there before is there, and this is seen again when it is back.
    const uint32_t OCCUPIED[] = {
        f->place ^ f->size, 0,          1 << 20,    at(arena), 0xe0000000,
        0xfec00000,         0xfee00000, 0xffff8000, ~0u,
    };
    for (unsigned n = 0; n < COUNT(OCCUPIED); n++) {
        buffer(50)[0] = n;
        configure(f, BAR0, 4, OCCUPIED[n]);
        if (buffer(50)[0] != n)
            wrong(f, name, "memory is gone");
        uint32_t is = configured(f, BAR0, 4);
        configure(f, BAR0, 4, f->place);
        if (is != (OCCUPIED[n] & -f->size))
            wrong(f, name, "%#x was written, and is %#x", OCCUPIED[n], is);
    }
    must_work(f, "where something else is");
}

// A message that does no harm: nobody waits for this vector.
static void message(struct function *f, unsigned vector, uint64_t address, uint32_t control) {
    uint32_t entry = f->table + vector * 16;
    set(f, entry, 8, address);
    set(f, entry + 8, 4, 0x51);
    set(f, entry + 12, 4, control);
}

void messages(struct function *f) {
    const char *name = "messages";
    static const uint64_t PLACES[] = {
        0xfee00000, 0, ~0ul, 0xfee0000000000000, 0xfeeff00c, 1ul << 40,
    };
    enum { ON = 1 << 15, MASKED = 1 << 14 };
    set_up(f, ~0ul);
    for (unsigned n = 0; n < COUNT(PLACES) * 2; n++) {
        for (unsigned vector = 0; vector < f->vectors; vector++)
            message(f, vector, PLACES[n / 2], n & 1);
        set(f, f->common + CONFIG_VECTOR, 2, n % (f->vectors + 1));
        for (unsigned queue = 0; queue < f->queues; queue++) {
            set(f, f->common + QUEUE_SELECT, 2, queue);
            set(f, f->common + QUEUE_VECTOR, 2, (queue + n) % f->vectors);
        }
        configure(f, f->msix + 2, 2, n % 3 == 2 ? ON | MASKED : ON);
        f->kind->ask(f);
        const char *why = f->kind->answer(f);
        if (why)
            wrong(f, name, "%s", why);
        for (unsigned offset = 0; offset < 32; offset += 4)
            set(f, f->pending + offset, 4, ~0u), get(f, f->pending + offset, 4);
        // Pending ones come now, or are forgotten.
        configure(f, f->msix + 2, 2, n % 4 ? ON : 0);
        configure(f, f->msix + 2, 2, 0);
        if (!set_up(f, ~0ul))
            wrong(f, name, "it is not ready again");
    }
    set(f, f->common + CONFIG_VECTOR, 2, f->vectors);
    set(f, f->common + QUEUE_SELECT, 2, 0), set(f, f->common + QUEUE_VECTOR, 2, 0xfff0);
    if (get(f, f->common + CONFIG_VECTOR, 2) != 0xffff ||
        get(f, f->common + QUEUE_VECTOR, 2) != 0xffff)
        wrong(f, name, "there is a vector too many");
    // Of a table entry's words none is read or written in part.
    for (unsigned offset = 0; offset < 16 * f->vectors + 64; offset += 3)
        set(f, f->table + offset, 1 << offset % 2, ~0u), get(f, f->table + offset, 1 << offset % 4);
    configure(f, f->msix + 1, 1, 0xff), configure(f, f->msix + 2, 1, 0xff);
    restore(f);
    must_work(f, name);
}
