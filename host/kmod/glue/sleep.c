// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
/*
 * A lock under which one may sleep, and a thread's signals: src/sleep_lock.rs,
 * src/thread.rs.
 */
#include <linux/mutex.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <linux/string.h>

#include "glue.h"

struct mutex *unibody_mutex_new(void)
{
	struct mutex *mutex = kzalloc(sizeof(*mutex), GFP_KERNEL_ACCOUNT);

	if (mutex)
		mutex_init(mutex);
	return mutex;
}

void unibody_mutex_free(struct mutex *mutex)
{
	kfree(mutex);
}

/* Gives false if the thread is being killed. */
bool unibody_mutex_lock(struct mutex *mutex)
{
	return mutex_lock_killable(mutex) == 0;
}

void unibody_mutex_wait(struct mutex *mutex)
{
	mutex_lock(mutex);
}

void unibody_mutex_unlock(struct mutex *mutex)
{
	mutex_unlock(mutex);
}

static_assert(sizeof(sigset_t) == sizeof(u64));

/* Has these signals be blocked, until the next one is called. */
void unibody_signals_block(u64 mask)
{
	sigset_t set;

	memcpy(&set, &mask, sizeof(set));
	sigprocmask(SIG_SETMASK, &set, &current->real_blocked);
}

void unibody_signals_restore(void)
{
	sigprocmask(SIG_SETMASK, &current->real_blocked, NULL);
	sigemptyset(&current->real_blocked);
}
