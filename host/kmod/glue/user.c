// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
/*
 * Memory of the process that this runs for: src/memory.rs.
 */
#include <linux/uaccess.h>
#include <asm/asm.h>
#include <asm/cpufeature.h>

#include "glue.h"

bool unibody_user_range(const void __user *address, size_t size)
{
	return access_ok(address, size);
}

size_t unibody_copy_from_user(void *to, const void __user *from, size_t size)
{
	return _copy_from_user(to, from, size);
}

size_t unibody_copy_to_user(void __user *to, const void *from, size_t size)
{
	return _copy_to_user(to, from, size);
}

/* Each in one access. 0, or a negative error number. */
#define WORD(bits)							\
int unibody_load_##bits(const u##bits __user *from, u##bits *value)	\
{									\
	return get_user(*value, from);					\
}									\
									\
int unibody_store_##bits(u##bits __user *to, u##bits value)		\
{									\
	return put_user(value, to);					\
}									\
									\
/* Replaces *old by what was there if that is something else. */	\
int unibody_exchange_##bits(u##bits __user *at, u##bits *old, u##bits new) \
{									\
	if (!access_ok(at, sizeof(*at)))				\
		return -EFAULT;						\
	return __try_cmpxchg_user(at, old, new, fault_##bits);		\
}

WORD(8)
WORD(16)
WORD(32)
WORD(64)

bool unibody_has_exchange_128(void)
{
	return boot_cpu_has(X86_FEATURE_CX16);
}

/* The kernel has none for 16 bytes. The address is aligned to them. */
int unibody_exchange_128(u64 __user *at, u64 *old, const u64 *new)
{
	int error = 0;

	if (!access_ok(at, 16))
		return -EFAULT;
	__uaccess_begin_nospec();
	asm volatile("1: " LOCK_PREFIX "cmpxchg16b %[at]\n"
		     "2:\n"
		     _ASM_EXTABLE_TYPE_REG(1b, 2b, EX_TYPE_EFAULT_REG, %[error])
		     : [error] "+r" (error), [at] "+m" (*(__force __int128 *)at),
		       "+a" (old[0]), "+d" (old[1])
		     : "b" (new[0]), "c" (new[1])
		     : "memory", "cc");
	__uaccess_end();
	return error;
}
