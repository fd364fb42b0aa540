// A driver that does wrong what a driver can: to each virtio device of the machine, one after the other. After each case the device is
// reset, set up, and has to work; at the end the kernel's driver has it again, and reads from a disk what was there before.
//
// hostile ROUNDS SEED [DEVICE…]     so many rounds of what is random; devices by name (blk, console…): all, if none is named
//
// A line for each device says how many cases there were; `FAILED …` what did not hold. It may be the machine's first process.
#include "hostile.h"
#include <dirent.h>
#include <stdarg.h>
#include <sys/mount.h>
#include <sys/reboot.h>

// A device that does not work costs time in each case.
#define ENOUGH 4

unsigned rounds;
static uint64_t seed;
static unsigned failures;

double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec + time.tv_nsec / 1e9;
}

uint64_t any(uint64_t below) {
    // splitmix64. Threads may get the same: it is random all the same.
    uint64_t z = seed += 0x9e3779b97f4a7c15;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
    z = (z ^ z >> 27) * 0x94d049bb133111eb;
    return below ? (z ^ z >> 31) % below : 0;
}

static void end(int result) {
    fflush(stdout);
    if (getpid() == 1) {
        printf("hostile: the end, with status %d\n", result);
        sync();
        reboot(RB_POWER_OFF);
    }
    exit(result);
}

void wrong(struct function *f, const char *name, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    printf("FAILED %s %s: %s: ", f->kind->name, f->name, name);
    vprintf(format, arguments);
    printf(" (status %#x)\n", status(f));
    va_end(arguments);
    f->wrong++, failures++;
    if (f->wrong >= ENOUGH) {
        printf("that is enough, after %u cases\n", f->cases);
        end(1);
    }
}

void must_work(struct function *f, const char *name) {
    f->cases++;
    if (!set_up(f, ~0ul)) {
        wrong(f, name, "it cannot be set up again");
        return;
    }
    f->kind->ask(f);
    const char *why = f->kind->answer(f);
    if (why)
        wrong(f, name, "it does not work: %s", why);
}

static void attack(struct function *f) {
    double began = now();
    attach(f);
    must_work(f, "at first");
    chains(f);
    rings_out_of_place(f);
    registers(f);
    configuration_space(f);
    placement(f);
    messages(f);
    f->kind->wrong(f);
    moments(f);
    at_random(f);
    reset(f);
    printf("%s %s: %u cases in %.1f s\n", f->kind->name, f->name, f->cases, now() - began);
}

// The block device of a function, when the kernel's driver has it.
static int open_disk(const struct function *f) {
    char pattern[128], path[64];
    snprintf(pattern, sizeof pattern, "/sys/bus/pci/devices/%s", f->name);
    for (double began = now(); now() - began < 20; usleep(2000)) {
        DIR *function = opendir(pattern), *blocks = NULL;
        for (struct dirent *entry; function && !blocks && (entry = readdir(function));) {
            char folder[512];
            snprintf(folder, sizeof folder, "%s/%s/block", pattern, entry->d_name);
            if (strncmp(entry->d_name, "virtio", 6) == 0)
                blocks = opendir(folder);
        }
        for (struct dirent *entry; blocks && (entry = readdir(blocks));) {
            snprintf(path, sizeof path, "/dev/%.32s", entry->d_name);
            int disk = entry->d_name[0] == '.' ? -1 : open(path, O_RDONLY | O_DIRECT);
            if (disk >= 0) {
                closedir(blocks), closedir(function);
                return disk;
            }
        }
        if (blocks)
            closedir(blocks);
        if (function)
            closedir(function);
    }
    return -1;
}

static void is_ordinary(struct function *f) {
    give_back(f);
    if (f->type != BLOCK || !f->driver[0])
        return;
    int disk = open_disk(f);
    void *bytes = buffer(60);
    if (disk < 0 || pread(disk, bytes, sizeof f->known, 0) != sizeof f->known)
        wrong(f, "the kernel's driver", "cannot read: errno %d", errno);
    else if (memcmp(bytes, f->known, sizeof f->known) != 0)
        wrong(f, "the kernel's driver", "other bytes than before");
    else
        printf("%s %s: the kernel reads what was there\n", f->kind->name, f->name);
    close(disk);
}

static void become_first_process(void) {
    mkdir("/proc", 0755), mount("proc", "/proc", "proc", 0, NULL);
    mkdir("/sys", 0755), mount("sysfs", "/sys", "sysfs", 0, NULL);
    mkdir("/dev", 0755), mount("devtmpfs", "/dev", "devtmpfs", 0, NULL);
}

int main(int count, char **arguments) {
    static struct function all[32];
    unsigned cases = 0, attacked = 0;
    if (getpid() == 1)
        become_first_process();
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (count < 3) {
        fprintf(stderr, "hostile ROUNDS SEED [DEVICE...]\n");
        end(2);
    }
    rounds = atoi(arguments[1]), seed = strtoull(arguments[2], NULL, 0);
    make_arena();
    unsigned functions = find(all, COUNT(all));
    for (unsigned n = 0; n < functions; n++) {
        struct function *f = &all[n];
        int chosen = count == 3;
        for (int named = 3; named < count && f->kind; named++)
            chosen |= strcmp(arguments[named], f->kind->name) == 0;
        if (!f->kind)
            printf("nobody knows %s, of type %u\n", f->name, f->type), failures++;
        if (!chosen || !f->kind)
            continue;
        attack(f);
        is_ordinary(f);
        cases += f->cases, attacked++;
    }
    printf("%u devices, %u cases, %u wrong\n", attacked, cases, failures);
    end(failures != 0 || attacked == 0);
}
