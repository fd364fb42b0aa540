// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
/*
 * The memory of a VM's process, and who is told when its pages go: src/mm.rs.
 */
#include <linux/err.h>
#include <linux/mmu_notifier.h>
#include <linux/sched.h>
#include <linux/slab.h>

#include "glue.h"

struct unibody_notifier {
	struct mmu_notifier notifier;
	void *pages;
};

static void *pages_of(struct mmu_notifier *notifier)
{
	return container_of(notifier, struct unibody_notifier, notifier)->pages;
}

static int change(struct mmu_notifier *notifier, const struct mmu_notifier_range *range)
{
	unibody_pages_change(pages_of(notifier), range->start, range->end);
	return 0;
}

static void changed(struct mmu_notifier *notifier, const struct mmu_notifier_range *range)
{
	unibody_pages_changed(pages_of(notifier), range->start, range->end);
}

/* The process ends, or nobody wants to be told any more: all of its pages go. */
static void all_go(struct mmu_notifier *notifier, struct mm_struct *mm)
{
	unibody_pages_change(pages_of(notifier), 0, ULONG_MAX);
}

static const struct mmu_notifier_ops operations = {
	.invalidate_range_start = change,
	.invalidate_range_end = changed,
	.release = all_go,
};

/*
 * Tells of this process's pages, or an error number as ERR_PTR gives it. It keeps
 * the mm_struct.
 */
struct unibody_notifier *unibody_notifier_new(void *pages)
{
	struct unibody_notifier *new;
	int error;

	if (!current->mm)
		return ERR_PTR(-EINVAL);
	new = kzalloc(sizeof(*new), GFP_KERNEL_ACCOUNT);
	if (!new)
		return ERR_PTR(-ENOMEM);
	new->pages = pages;
	new->notifier.ops = &operations;
	/* It is given up for a signal. */
	error = mmu_notifier_register(&new->notifier, current->mm);
	if (error) {
		kfree(new);
		return ERR_PTR(error);
	}
	return new;
}

/* When it returns it tells no more, nor just now. */
void unibody_notifier_free(struct unibody_notifier *old)
{
	mmu_notifier_unregister(&old->notifier, old->notifier.mm);
	kfree(old);
}

bool unibody_notifier_is_currents(const struct unibody_notifier *notifier)
{
	return notifier->notifier.mm == current->mm;
}
