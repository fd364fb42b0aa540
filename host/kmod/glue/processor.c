// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
/*
 * Processors: src/processor.rs.
 */
#include <linux/cpumask.h>
#include <linux/irqflags.h>
#include <linux/preempt.h>
#include <linux/smp.h>
/* Newer kernels trace what smp_send_reschedule does, in the macro that it is there. */
#include <trace/events/ipi.h>

#include "glue.h"

u32 unibody_processors(void)
{
	return nr_cpu_ids;
}

u32 unibody_stay(void)
{
	return get_cpu();
}

void unibody_stay_end(void)
{
	put_cpu();
}

unsigned long unibody_interrupts_off(void)
{
	unsigned long flags;

	local_irq_save(flags);
	return flags;
}

void unibody_interrupts_restore(unsigned long flags)
{
	local_irq_restore(flags);
}

bool unibody_is_online(u32 processor)
{
	return cpu_online(processor);
}

/* This processor's APIC sends it to itself as to any other; KVM does the same. */
void unibody_interrupt(u32 processor)
{
	smp_send_reschedule(processor);
}

static void taken(void *nothing)
{
}

void unibody_interrupt_and_wait(u32 processor)
{
	smp_call_function_single(processor, taken, NULL, 1);
}
