// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
/*
 * Waiting, waking, and what is wanted of a thread meanwhile: src/parker.rs,
 * src/thread.rs.
 */
#include <linux/build_bug.h>
#include <linux/entry-kvm.h>
#include <linux/kvm_host.h>
#include <linux/rcuwait.h>
#include <linux/sched/signal.h>

#include "glue.h"

static_assert(sizeof(struct rcuwait) == sizeof(void *));

void unibody_wait_begin(struct rcuwait *place)
{
	prepare_to_rcuwait(place);
}

/* From now on a wake-up is not lost. Gives false if a signal is there. */
bool unibody_wait_prepare(void)
{
	set_current_state(TASK_INTERRUPTIBLE);
	return !signal_pending(current);
}

void unibody_wait(void)
{
	schedule();
}

void unibody_wait_end(struct rcuwait *place)
{
	finish_rcuwait(place);
}

void unibody_wake(struct rcuwait *place)
{
	rcuwait_wake_up(place);
}

bool unibody_is_wanted(void)
{
	return __xfer_to_guest_mode_work_pending();
}

/*
 * The kernel does there what it does on the way to user space, but for
 * signals, of which it tells. It notes that in the vCPU of its own KVM that it
 * is handed: here a stand-in, which nobody reads.
 */
static struct kvm_run run_stand_in;
static struct kvm_vcpu vcpu_stand_in = { .run = &run_stand_in };

bool unibody_do_work(void)
{
	return xfer_to_guest_mode_handle_work(&vcpu_stand_in) == 0;
}
