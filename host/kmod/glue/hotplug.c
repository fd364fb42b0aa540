// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
/*
 * Processors that come and go: src/virtualization.rs.
 */
#include <linux/cpuhotplug.h>
#include <linux/irqflags.h>
#include <linux/reboot.h>
#include <linux/smp.h>

#include "glue.h"

static int up(unsigned int processor)
{
	unsigned long flags;
	int error;

	local_irq_save(flags);
	error = unibody_processor_up(processor);
	local_irq_restore(flags);
	return error;
}

static int down(unsigned int processor)
{
	unsigned long flags;

	local_irq_save(flags);
	unibody_processor_down(processor);
	local_irq_restore(flags);
	return 0;
}

/*
 * On each processor that is there, and each that comes; down undoes it on each
 * that goes. A state, or a negative error number of up's, which is undone then.
 * Threads of programs run on a processor only while it is up.
 */
int unibody_processors_begin(void)
{
	return cpuhp_setup_state(CPUHP_AP_ONLINE_DYN, "unibody:online", up, down);
}

/* Down on each that is there. */
void unibody_processors_end(int state)
{
	cpuhp_remove_state(state);
}

static void reboot_down(void *nothing)
{
	unibody_processor_down(smp_processor_id());
}

static int reboot(struct notifier_block *block, unsigned long event, void *data)
{
	on_each_cpu(reboot_down, NULL, 1);
	return NOTIFY_OK;
}

static struct notifier_block on_reboot = { .notifier_call = reboot };

int unibody_reboot_begin(void)
{
	return register_reboot_notifier(&on_reboot);
}

void unibody_reboot_end(void)
{
	unregister_reboot_notifier(&on_reboot);
}
