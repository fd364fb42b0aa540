/* SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only */
/* What the module's two halves call of each other: host/kmod/src and glue.c. */
#ifndef UNIBODY_GLUE_H
#define UNIBODY_GLUE_H

#include <linux/types.h>

/* Rust's half: src/lib.rs. */
int unibody_init(void);
void unibody_exit(void);

/* The glue: src/allocator.rs, src/printk.rs, src/panic.rs, src/selftest.rs. */
void *unibody_alloc(size_t size, size_t align, bool zero);
void unibody_free(void *block);
void unibody_print(int level, const char *text, size_t length);
void __noreturn unibody_bug(void);
void unibody_stack_paint(void);
size_t unibody_stack_depth(void);

#endif
