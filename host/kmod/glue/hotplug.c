// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
/*
 * Processors that come and go, and a machine that sleeps, reboots or crashes:
 * src/virtualization.rs.
 */
#include <linux/cpuhotplug.h>
#include <linux/irqflags.h>
#include <linux/reboot.h>
#include <linux/smp.h>
#include <linux/suspend.h>
#include <linux/version.h>
#include <asm/reboot.h>

#include "glue.h"

static int comes(unsigned int processor)
{
	unsigned long flags;
	int error;

	local_irq_save(flags);
	error = unibody_processor_up(processor);
	local_irq_restore(flags);
	return error;
}

static int goes(unsigned int processor)
{
	unsigned long flags;

	local_irq_save(flags);
	unibody_processor_down(processor);
	local_irq_restore(flags);
	return 0;
}

/*
 * What a kernel that crashes, to have another one started or the machine, calls
 * on each processor, most of which are brought there by an NMI. None comes back.
 * Up to 6.5 it switches SVM off there by itself, wherever it is on (6.1:
 * cpu_emergency_svm_disable in asm/virtext.h).
 *
 * There is one place for whoever has the processors. Once they are up here that is
 * nobody else, but KVM for the moment in which it is refused. KVM that is so makes a
 * newer kernel warn, for it takes the place before it asks for the processors.
 */
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 6, 0)
static void crash_begin(void)
{
	cpu_emergency_register_virt_callback(unibody_crash);
}

static void crash_end(void)
{
	cpu_emergency_unregister_virt_callback(unibody_crash);
}
#else
static void crash_begin(void)
{
}

static void crash_end(void)
{
}
#endif

/*
 * Up on each processor that is there, and each that comes; down on each that
 * goes. A state, or a negative error number of one's, when all are down again.
 * Threads of programs run on a processor only while it is up.
 */
int unibody_processors_begin(void)
{
	int state = cpuhp_setup_state(CPUHP_AP_ONLINE_DYN, "unibody:online", comes, goes);

	if (state >= 0)
		crash_begin();
	return state;
}

/* Down on each that is there. */
void unibody_processors_end(int state)
{
	crash_end();
	cpuhp_remove_state(state);
}

static void reboot_down(void *nothing)
{
	unibody_processor_down(smp_processor_id());
}

static int reboot(struct notifier_block *block, unsigned long event, void *data)
{
	/* Who comes up after that is refused, and who did before goes down. */
	unibody_reboot_begins();
	on_each_cpu(reboot_down, NULL, 1);
	return NOTIFY_OK;
}

static struct notifier_block on_reboot = { .notifier_call = reboot };

static int sleep(struct notifier_block *block, unsigned long event, void *data)
{
	switch (event) {
	case PM_SUSPEND_PREPARE:
	case PM_HIBERNATION_PREPARE:
	case PM_RESTORE_PREPARE:
		return unibody_sleep_begins() ? NOTIFY_OK : NOTIFY_BAD;
	case PM_POST_SUSPEND:
	case PM_POST_HIBERNATION:
	case PM_POST_RESTORE:
		unibody_sleep_ends();
	}
	return NOTIFY_OK;
}

static struct notifier_block on_sleep = { .notifier_call = sleep };

/*
 * From now on it is told of what the machine does. That is for as long as the
 * module is there: whoever asks only with the first VM may ask too late.
 */
int unibody_power_begin(void)
{
	int error = register_reboot_notifier(&on_reboot);

	if (error)
		return error;
	error = register_pm_notifier(&on_sleep);
	if (error)
		unregister_reboot_notifier(&on_reboot);
	return error;
}

void unibody_power_end(void)
{
	unregister_pm_notifier(&on_sleep);
	unregister_reboot_notifier(&on_reboot);
}
