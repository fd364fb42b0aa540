// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
/*
 * What has to wait for a context that may sleep: src/deferred.rs.
 */
#include <linux/delay.h>
#include <linux/irqflags.h>
#include <linux/preempt.h>
#include <linux/processor.h>
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

/*
 * Whoever waits by this may be of a real-time priority, to which yield() comes
 * back at once: then what is waited for never runs. So it sleeps a little.
 */
void unibody_yield(void)
{
	if (in_atomic() || irqs_disabled())
		cpu_relax();
	else
		usleep_range(20, 100);
}
