// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
/*
 * What has to wait for a context that may sleep: src/deferred.rs.
 */
#include <linux/preempt.h>
#include <linux/sched.h>
#include <linux/workqueue.h>

#include "glue.h"

static void run(struct work_struct *work)
{
	unibody_run_deferred();
}

static DECLARE_WORK(deferred, run);

/* False in a kernel that does not count: then everything is deferred. */
bool unibody_may_sleep(void)
{
	return preemptible();
}

void unibody_defer(void)
{
	schedule_work(&deferred);
}

void unibody_flush_deferred(void)
{
	flush_work(&deferred);
}

void unibody_yield(void)
{
	yield();
}
