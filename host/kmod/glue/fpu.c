// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
/*
 * A guest's x87 and vector registers: src/fpu.rs.
 */
#include <linux/sched.h>
#include <linux/slab.h>
#include <asm/cpufeature.h>
#include <asm/fpu/api.h>
#include <asm/fpu/types.h>

#include "glue.h"

struct fpu_guest *unibody_fpu_new(void)
{
	struct fpu_guest *guest = kzalloc(sizeof(*guest), GFP_KERNEL_ACCOUNT);

	if (!guest)
		return NULL;
	if (!fpu_alloc_guest_fpstate(guest)) {
		kfree(guest);
		return NULL;
	}
	return guest;
}

void unibody_fpu_free(struct fpu_guest *guest)
{
	fpu_free_guest_fpstate(guest);
	kfree(guest);
}

bool unibody_fpu_has_xsave(void)
{
	return boot_cpu_has(X86_FEATURE_XSAVE);
}

/* Where they are, and for which components there is room. */
void *unibody_fpu_area(struct fpu_guest *guest, u64 *components)
{
	*components = guest->fpstate->xfeatures;
	return &guest->fpstate->regs;
}

/* Whether this thread's registers are its own, and can be a guest's. */
bool unibody_fpu_can_swap(void)
{
	return !(current->flags & (PF_KTHREAD | PF_IO_WORKER)) &&
	       !current->thread.fpu.__task_fpstate;
}

/* Whether they are this guest's. */
bool unibody_fpu_is_swapped(const struct fpu_guest *guest)
{
	return current->thread.fpu.fpstate == guest->fpstate;
}

void unibody_fpu_swap(struct fpu_guest *guest, bool in)
{
	fpu_swap_kvm_fpstate(guest, in);
}

void unibody_fpu_restore(void)
{
	if (test_thread_flag(TIF_NEED_FPU_LOAD))
		switch_fpu_return();
}

/*
 * Has memory have this thread's registers, and nothing else: no processor's
 * are taken for them until they are loaded.
 */
void unibody_fpu_save(void)
{
	kernel_fpu_begin();
	current->thread.fpu.last_cpu = -1;
	kernel_fpu_end();
}
