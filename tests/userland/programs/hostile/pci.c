// Functions of PCI's with virtio devices: who has them, their configuration spaces, and their memory.
#include "hostile.h"
#include <dirent.h>
#include <sys/io.h>
#include <sys/mman.h>

#define DEVICES "/sys/bus/pci/devices"
#define VENDOR 0x1af4
#define FIRST_DEVICE 0x1040

static uint64_t number_in(const char *name, const char *file) {
    char path[128], text[32] = "";
    snprintf(path, sizeof path, DEVICES "/%s/%s", name, file);
    FILE *stream = fopen(path, "r");
    if (stream && !fgets(text, sizeof text, stream))
        text[0] = 0;
    if (stream)
        fclose(stream);
    return strtoull(text, NULL, 0);
}

static int by_name(const void *one, const void *other) {
    return strcmp(((const struct function *)one)->name, ((const struct function *)other)->name);
}

unsigned find(struct function *all, unsigned most) {
    unsigned count = 0;
    DIR *devices = opendir(DEVICES);
    for (struct dirent *entry; devices && count < most && (entry = readdir(devices));) {
        uint64_t device = number_in(entry->d_name, "device");
        if (number_in(entry->d_name, "vendor") != VENDOR || device < FIRST_DEVICE)
            continue;
        struct function *f = &all[count++];
        memset(f, 0, sizeof *f);
        snprintf(f->name, sizeof f->name, "%.15s", entry->d_name);
        f->type = device - FIRST_DEVICE;
        f->kind = kind_of(f->type);
    }
    if (devices)
        closedir(devices);
    qsort(all, count, sizeof *all, by_name);
    return count;
}

static int put(const char *path, const char *text) {
    int file = open(path, O_WRONLY);
    int done = file >= 0 && write(file, text, strlen(text)) > 0;
    close(file);
    return done;
}

// By the ports of old, where the kernel is not asked. See: PCI 3.0, 3.2.2.3.2.
static void select_register(const struct function *f, unsigned offset) {
    outl(1u << 31 | f->number << 8 | (offset & 0xfc), 0xcf8);
}

uint32_t configured(const struct function *f, unsigned offset, unsigned size) {
    unsigned port = 0xcfc + (offset & 3);
    select_register(f, offset);
    return size == 1 ? inb(port) : size == 2 ? inw(port) : inl(port);
}

void configure(const struct function *f, unsigned offset, unsigned size, uint32_t value) {
    unsigned port = 0xcfc + (offset & 3);
    select_register(f, offset);
    if (size == 1)
        outb(value, port);
    else if (size == 2)
        outw(value, port);
    else
        outl(value, port);
}

uint64_t get(const struct function *f, uint32_t offset, unsigned size) {
    volatile uint8_t *from = f->bar + offset;
    switch (size) {
    case 1: return *from;
    case 2: return *(volatile uint16_t *)from;
    case 4: return *(volatile uint32_t *)from;
    default: return *(volatile uint64_t *)from;
    }
}

void set(const struct function *f, uint32_t offset, unsigned size, uint64_t value) {
    volatile uint8_t *to = f->bar + offset;
    switch (size) {
    case 1: *to = value; break;
    case 2: *(volatile uint16_t *)to = value; break;
    case 4: *(volatile uint32_t *)to = value; break;
    default: *(volatile uint64_t *)to = value;
    }
}

// See: VIRTIO 1.2, 4.1.4; PCI 3.0, 6.8.2.
static void find_structures(struct function *f) {
    for (unsigned cap = configured(f, 0x34, 1); cap; cap = configured(f, cap + 1, 1)) {
        uint32_t offset = configured(f, cap + 8, 4);
        if (configured(f, cap, 1) == 0x11) {
            f->msix = cap;
            f->vectors = (configured(f, cap + 2, 2) & 0x7ff) + 1;
            f->table = configured(f, cap + 4, 4) & ~7u;
            f->pending = offset & ~7u;
        }
        if (configured(f, cap, 1) != 9)
            continue;
        switch (configured(f, cap + 3, 1)) {
        case 1: f->common = offset; break;
        case 2: f->notify = offset, f->multiplier = configured(f, cap + 16, 4); break;
        case 3: f->isr = offset; break;
        case 4: f->device = offset; break;
        case 5: f->access = cap;
        }
    }
}

// Takes a function from its driver.
void attach(struct function *f) {
    char path[128], target[128];
    unsigned device = 0;
    snprintf(path, sizeof path, DEVICES "/%s/driver", f->name);
    ssize_t length = readlink(path, target, sizeof target - 1);
    if (length > 0) {
        target[length] = 0;
        snprintf(f->driver, sizeof f->driver, "%.31s", strrchr(target, '/') + 1);
        snprintf(path, sizeof path, DEVICES "/%s/driver/unbind", f->name);
        if (!put(path, f->name))
            perror(path);
    }
    sscanf(f->name, "0000:00:%x.0", &device);
    f->number = device << 3;
    snprintf(path, sizeof path, DEVICES "/%s/resource0", f->name);
    if (iopl(3) != 0)
        perror("iopl");
    int resource = open(path, O_RDWR);
    // Its bits are those of addresses that may be had.
    f->place = configured(f, BAR0, 4);
    configure(f, BAR0, 4, ~0u);
    f->size = -(configured(f, BAR0, 4) & ~0xfu);
    configure(f, BAR0, 4, f->place);
    f->bar = mmap(NULL, f->size, PROT_READ | PROT_WRITE, MAP_SHARED, resource, 0);
    if (f->bar == MAP_FAILED) {
        perror(path);
        exit(3);
    }
    close(resource);
    configure(f, COMMAND, 2, MEMORY | BUS_MASTER | NO_LINE);
    find_structures(f);
    f->queues = get(f, f->common + NUM_QUEUES, 2);
    if (f->queues > QUEUES)
        f->queues = QUEUES;
}

// Gives it back to the driver that it had.
void give_back(struct function *f) {
    char path[128];
    if (!f->driver[0])
        return;
    snprintf(path, sizeof path, "/sys/bus/pci/drivers/%s/bind", f->driver);
    if (!put(path, f->name))
        wrong(f, "giving it back", "%s: errno %d", path, errno);
}
