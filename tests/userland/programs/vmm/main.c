// A VMM in C for the host: each check is a line, `ok NAME` or `FAILED NAME: where and what`.
#include "vmm.h"

const char *failure;
char failure_text[256];

#define CASE(name) {#name, name}
static const struct {
    const char *name;
    void (*run)(void);
} CASES[] = {
    CASE(device),
    CASE(real_mode_guest),
    CASE(two_vcpus_in_long_mode),
    CASE(a_signal_ends_a_run_after_its_handler),
    CASE(immediate_exit_ends_a_run),
    CASE(a_signal_wakes_a_halted_vcpu),
    CASE(a_handler_in_a_run_makes_no_ioctl),
    CASE(the_signal_mask_of_a_run),
    CASE(a_signal_without_a_handler_ends_a_run),
    CASE(handlers_are_the_programs_own),
    CASE(an_argument_that_is_not_there_is_no_fault),
    CASE(copies_are_the_same),
    CASE(a_descriptor_is_not_sent),
    CASE(a_vm_lives_as_long_as_its_vcpu),
    CASE(each_kind_has_its_own_calls),
    CASE(a_child_has_none_of_it),
    CASE(events_outlive_closing_all),
    CASE(statistics_are_those_of_now),
    CASE(writes_that_wait_are_in_each_vcpus_ring),
    CASE(dirty_pages_come_in_rings),
    CASE(a_task_priority_is_told_and_kept),
    CASE(descriptors_come_and_go_under_calls),
    CASE(nothing_is_left_of_many_machines),
    CASE(cost),
};

int main(int count, char **arguments) {
    int failures = 0;
    if (count == 3 && strcmp(arguments[1], "--is-closed") == 0)
        return fcntl(atoi(arguments[2]), F_GETFD) == -1 && errno == EBADF ? 0 : 1;
    setvbuf(stdout, NULL, _IOLBF, 0);
    for (size_t n = 0; n < sizeof CASES / sizeof CASES[0]; n++) {
        if (count > 1 && strcmp(arguments[1], CASES[n].name) != 0)
            continue;
        failure = NULL;
        CASES[n].run();
        if (failure)
            printf("FAILED %s: %s\n", CASES[n].name, failure), failures++;
        else
            printf("ok %s\n", CASES[n].name);
    }
    return failures != 0;
}
