// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
/*
 * eventfds: src/event.rs, src/watch.rs.
 */
#include <linux/eventfd.h>
#include <linux/file.h>
#include <linux/poll.h>
#include <linux/slab.h>
#include <linux/version.h>
#include <linux/wait.h>

#include "glue.h"

/* The next two give an error number as ERR_PTR does. */
struct file *unibody_event_file(int descriptor)
{
	return eventfd_fget(descriptor);
}

struct eventfd_ctx *unibody_event_of(struct file *file)
{
	return eventfd_ctx_fileget(file);
}

void unibody_event_signal(struct eventfd_ctx *event)
{
	/* Newer kernels have no number there: nobody gave another one. */
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 8, 0)
	eventfd_signal(event);
#else
	eventfd_signal(event, 1);
#endif
}

void unibody_event_put(struct file *file, struct eventfd_ctx *event)
{
	eventfd_ctx_put(event);
	fput(file);
}

struct unibody_watch {
	wait_queue_entry_t wait;
	poll_table poll;
	wait_queue_head_t *queue;
	struct eventfd_ctx *event;
	void *watcher;
};

/* With the queue's lock held. */
static int woken(wait_queue_entry_t *wait, unsigned int mode, int sync, void *key)
{
	struct unibody_watch *watch = container_of(wait, struct unibody_watch, wait);

	return (key_to_poll(key) & EPOLLIN) && unibody_signalled(watch->watcher, watch);
}

static void enqueue(struct file *file, wait_queue_head_t *queue, poll_table *poll)
{
	struct unibody_watch *watch = container_of(poll, struct unibody_watch, poll);

	watch->queue = queue;
	/* Before whoever reads it, who finds nothing then. */
	add_wait_queue_priority(queue, &watch->wait);
}

/* From now on the watcher is told. NULL without memory. */
struct unibody_watch *unibody_watch_new(struct file *file, struct eventfd_ctx *event,
					void *watcher)
{
	struct unibody_watch *watch = kzalloc(sizeof(*watch), GFP_KERNEL_ACCOUNT);

	if (!watch)
		return NULL;
	watch->event = event;
	watch->watcher = watcher;
	init_waitqueue_func_entry(&watch->wait, woken);
	init_poll_funcptr(&watch->poll, enqueue);
	vfs_poll(file, &watch->poll);
	return watch;
}

/* The count, which is zero then. In `woken`, whose lock it takes. */
u64 unibody_watch_take_locked(struct unibody_watch *watch)
{
	u64 count;

	eventfd_ctx_do_read(watch->event, &count);
	return count;
}

u64 unibody_watch_take(struct unibody_watch *watch)
{
	unsigned long flags;
	u64 count;

	spin_lock_irqsave(&watch->queue->lock, flags);
	eventfd_ctx_do_read(watch->event, &count);
	spin_unlock_irqrestore(&watch->queue->lock, flags);
	return count;
}

/* When it returns the watcher is not told any more, nor just now. */
void unibody_watch_free(struct unibody_watch *watch)
{
	remove_wait_queue(watch->queue, &watch->wait);
	kfree(watch);
}
