// Memory that a device is told of: a huge page, of which the kernel moves nothing.
#include "hostile.h"
#include <sys/mman.h>

#define HUGE (2ul << 20)

uint8_t *arena;
uint64_t end_of_memory;
static uint64_t physical;

// Where RAM ends. See: Linux, Documentation/ABI: /proc/iomem.
static uint64_t ram_end(void) {
    char line[256];
    uint64_t end = 0, first, last;
    FILE *stream = fopen("/proc/iomem", "r");
    while (stream && fgets(line, sizeof line, stream)) {
        if (strstr(line, "System RAM") && sscanf(line, "%lx-%lx", &first, &last) == 2 && last > end)
            end = last + 1;
    }
    if (stream)
        fclose(stream);
    return end;
}

static void die(const char *what) {
    perror(what);
    exit(3);
}

void make_arena(void) {
    FILE *count = fopen("/proc/sys/vm/nr_hugepages", "w");
    if (!count || fputs("1", count) < 0 || fclose(count) != 0)
        die("nr_hugepages");
    arena = mmap(NULL, HUGE, PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | MAP_POPULATE, -1, 0);
    if (arena == MAP_FAILED)
        die("a huge page");
    // See: Linux, Documentation/admin-guide/mm/pagemap.rst.
    uint64_t entry = 0;
    int pagemap = open("/proc/self/pagemap", O_RDONLY);
    if (pread(pagemap, &entry, sizeof entry, (uintptr_t)arena / PAGE * 8) != sizeof entry)
        die("pagemap");
    close(pagemap);
    physical = (entry & ((1ul << 55) - 1)) * PAGE;
    end_of_memory = ram_end();
    if (physical == 0 || end_of_memory == 0)
        die("root is who may see addresses");
}

uint64_t at(const volatile void *own) { return physical + ((const volatile uint8_t *)own - arena); }

uint8_t *rings(unsigned queue) { return arena + queue % QUEUES * PAGE; }

uint8_t *buffer(unsigned page) { return arena + (QUEUES + page % BUFFERS) * PAGE; }
