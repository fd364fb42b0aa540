// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
/*
 * Clocks and timers: src/time.rs, src/timer.rs.
 */
#include <linux/hrtimer.h>
#include <linux/slab.h>
#include <linux/timekeeping.h>
#include <asm/tsc.h>

#include "glue.h"

u64 unibody_now(void)
{
	return ktime_get_ns();
}

u64 unibody_wall_clock(void)
{
	return ktime_get_real_ns();
}

u64 unibody_tsc(void)
{
	return rdtsc_ordered();
}

u32 unibody_tsc_khz(void)
{
	return tsc_khz;
}

struct unibody_timer {
	struct hrtimer timer;
	void *alarm;
};

static enum hrtimer_restart expire(struct hrtimer *timer)
{
	unibody_expired(container_of(timer, struct unibody_timer, timer)->alarm);
	/* Armed meanwhile, it stays so. */
	return HRTIMER_NORESTART;
}

struct unibody_timer *unibody_timer_new(void *alarm)
{
	struct unibody_timer *timer = kzalloc(sizeof(*timer), GFP_KERNEL_ACCOUNT);

	if (!timer)
		return NULL;
	hrtimer_init(&timer->timer, CLOCK_MONOTONIC, HRTIMER_MODE_ABS_HARD);
	timer->timer.function = expire;
	timer->alarm = alarm;
	return timer;
}

void unibody_timer_arm(struct unibody_timer *timer, s64 deadline)
{
	hrtimer_start(&timer->timer, ns_to_ktime(deadline), HRTIMER_MODE_ABS_HARD);
}

/* Gives false if it is firing right now. */
bool unibody_timer_try_cancel(struct unibody_timer *timer)
{
	return hrtimer_try_to_cancel(&timer->timer) >= 0;
}

void unibody_timer_cancel(struct unibody_timer *timer)
{
	hrtimer_cancel(&timer->timer);
}

void unibody_timer_free(struct unibody_timer *timer)
{
	kfree(timer);
}
