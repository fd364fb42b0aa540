// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
/*
 * What Rust cannot call because the kernel has it as macros or inline
 * functions only. No logic here: that is in host/kmod/src.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/bug.h>
#include <linux/log2.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/preempt.h>
#include <linux/printk.h>
#include <linux/sched/task_stack.h>
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
	return kvmalloc(size, flags);
}

void unibody_free(void *block)
{
	kvfree(block);
}

void unibody_print(int level, const char *text, size_t length)
{
	if (level <= LOGLEVEL_ERR)
		pr_err("%.*s\n", (int)length, text);
	else
		pr_info("%.*s\n", (int)length, text);
}

void __noreturn unibody_bug(void)
{
	BUG();
}

/*
 * Measuring the stack: paint what lies below this function, and look
 * afterwards how much of the paint is gone. The magic number at the stack's end
 * is the kernel's and stays. An interrupt that comes while this runs pushes its
 * frame onto paint, which the next body's measurement does not see.
 */
#define STACK_PAINT 0xa5c35a3c96e1785aul

void noinline unibody_stack_paint(void)
{
	unsigned long *word = end_of_stack(current) + 1;
	unsigned long *top = __builtin_frame_address(0);

	/* What this function itself pushed lies right below its frame address. */
	for (top -= 32; word < top; word++)
		WRITE_ONCE(*word, STACK_PAINT);
}

size_t noinline unibody_stack_depth(void)
{
	unsigned long *word = end_of_stack(current) + 1;
	unsigned long *top = __builtin_frame_address(0);

	while (word < top && READ_ONCE(*word) == STACK_PAINT)
		word++;
	return (unsigned long)top - (unsigned long)word;
}

static int __init glue_init(void)
{
	return unibody_init();
}
module_init(glue_init);

static void __exit glue_exit(void)
{
	unibody_exit();
}
module_exit(glue_exit);

MODULE_DESCRIPTION("Unibody hypervisor");
MODULE_AUTHOR("The Unibody developers");
MODULE_LICENSE("Dual MIT/GPL");
