// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
/*
 * The module's entry points, the log, and BUG.
 *
 * Of this folder: what Rust cannot call because the kernel has it as macros
 * or inline functions only, or with types of the kernel's configuration, a
 * file a subject. No logic here: that is in host/kmod/src.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/bug.h>
#include <linux/module.h>
#include <linux/printk.h>
#include <linux/ratelimit.h>

#include "glue.h"

void unibody_print(int level, const char *text, size_t length)
{
	if (level <= LOGLEVEL_ERR)
		pr_err("%.*s\n", (int)length, text);
	else
		pr_info("%.*s\n", (int)length, text);
}

/* The kernel's own limit for lines that users can bring about. */
bool unibody_may_print(void)
{
	static DEFINE_RATELIMIT_STATE(limit, DEFAULT_RATELIMIT_INTERVAL, DEFAULT_RATELIMIT_BURST);

	return __ratelimit(&limit);
}

void __noreturn unibody_bug(void)
{
	BUG();
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
