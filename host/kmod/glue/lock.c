// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
/*
 * The lock: src/lock.rs. It is the one beneath raw_spinlock_t, which has one
 * size and one initial value in every configuration: all zero.
 */
#include <linux/build_bug.h>
#include <linux/spinlock.h>

#include "glue.h"

static_assert(sizeof(arch_spinlock_t) == sizeof(u32));

unsigned long unibody_lock(arch_spinlock_t *lock)
{
	unsigned long flags;

	local_irq_save(flags);
	preempt_disable();
	arch_spin_lock(lock);
	return flags;
}

bool unibody_try_lock(arch_spinlock_t *lock, unsigned long *flags)
{
	unsigned long before;

	local_irq_save(before);
	preempt_disable();
	if (arch_spin_trylock(lock)) {
		*flags = before;
		return true;
	}
	local_irq_restore(before);
	preempt_enable();
	return false;
}

void unibody_unlock(arch_spinlock_t *lock, unsigned long flags)
{
	arch_spin_unlock(lock);
	local_irq_restore(flags);
	preempt_enable();
}

bool unibody_is_locked(arch_spinlock_t *lock)
{
	return arch_spin_is_locked(lock);
}
