// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
/*
 * The heap: src/allocator.rs.
 */
#include <linux/log2.h>
#include <linux/mm.h>
#include <linux/preempt.h>
#include <linux/slab.h>

#include "glue.h"

/*
 * kmalloc aligns to ARCH_KMALLOC_MINALIGN, and sizes that are a power of two to
 * their size; vmalloc, which takes over where kmalloc has no contiguous
 * pages, aligns to a page.
 */
void *unibody_alloc(size_t size, size_t align, bool zero)
{
	bool atomic = in_atomic() || irqs_disabled();
	/* Who asks for more than there is gets NULL, and the log stays clean. */
	gfp_t flags = __GFP_NOWARN | (zero ? __GFP_ZERO : 0);
	void *block;

	if (align > ARCH_KMALLOC_MINALIGN) {
		if (size > KMALLOC_MAX_SIZE && align > PAGE_SIZE)
			return NULL;
		if (size <= KMALLOC_MAX_SIZE)
			size = roundup_pow_of_two(max(size, align));
	}
	if (WARN_ON_ONCE(atomic))
		return kmalloc(size, flags | GFP_ATOMIC);
	flags |= GFP_KERNEL_ACCOUNT;
	if (align > PAGE_SIZE)
		return kmalloc(size, flags);
	block = kvmalloc(size, flags);
	/*
	 * The kernel has small blocks for whoever waits, but a control group
	 * that is at its limit and dies does not let them be charged. Most of
	 * the core's small allocations cannot fail: without memory they end in
	 * BUG. So what the group refuses is had uncharged.
	 */
	if (!block && size <= PAGE_SIZE)
		block = kmalloc(size, (flags & ~__GFP_ACCOUNT) | __GFP_NOFAIL);
	return block;
}

void unibody_free(void *block)
{
	kvfree(block);
}

/* What kvfree takes in any context is what kmalloc gave. */
bool unibody_free_may_sleep(const void *block)
{
	return is_vmalloc_addr(block);
}
