// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
/*
 * For the test bodies alone: src/selftest.rs, src/place.rs.
 */
#include <linux/anon_inodes.h>
#include <linux/eventfd.h>
#include <linux/fdtable.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/irqflags.h>
#include <linux/kprobes.h>
#include <linux/mem_encrypt.h>
#include <linux/mm.h>
#include <linux/mman.h>
#include <linux/sched/signal.h>
#include <linux/sched/task_stack.h>
#include <asm/io.h>

#include "glue.h"

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

/* Both give an error number as ERR_PTR does. */
unsigned long unibody_map(size_t size, bool read, bool write)
{
	unsigned long access = (read ? PROT_READ : 0) | (write ? PROT_WRITE : 0);

	return vm_mmap(NULL, 0, size, access, MAP_PRIVATE | MAP_ANONYMOUS, 0);
}

unsigned long unibody_map_at(unsigned long at, size_t size, bool read, bool write)
{
	unsigned long access = (read ? PROT_READ : 0) | (write ? PROT_WRITE : 0);

	return vm_mmap(NULL, at, size, access, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, 0);
}

void unibody_unmap(unsigned long start, size_t size)
{
	vm_munmap(start, size);
}

/*
 * The kernel makes eventfds for programs only: by the system call, whose
 * address is asked for by way of a probe.
 */
int unibody_eventfd_new(void)
{
	struct kprobe probe = { .symbol_name = "__x64_sys_eventfd2" };
	struct pt_regs arguments = {};
	long (*call)(const struct pt_regs *arguments);
	int error = register_kprobe(&probe);

	if (error)
		return error;
	call = (void *)probe.addr;
	unregister_kprobe(&probe);
	return call(&arguments);
}

static const struct file_operations nothing;

int unibody_other_descriptor(void)
{
	return anon_inode_getfd("[unibody-test]", &nothing, NULL, 0);
}

void unibody_close(int descriptor)
{
	close_fd(descriptor);
}

/* Who reads it: what leaves the queue of those who wait reads the count. */
u64 unibody_event_take(struct eventfd_ctx *event)
{
	DEFINE_WAIT(nobody);
	u64 count = 0;

	eventfd_ctx_remove_wait_queue(event, &nobody, &count);
	return count;
}

bool unibody_interrupts_are_off(void)
{
	return irqs_disabled();
}

/* As if a signal had come in, or not. */
void unibody_pretend_signal(bool there)
{
	if (there)
		set_thread_flag(TIF_SIGPENDING);
	else
		clear_thread_flag(TIF_SIGPENDING);
}

const void *unibody_at_physical(u64 physical)
{
	return phys_to_virt(__sme_clr(physical));
}

/* What these system calls do with a descriptor that has the operation. */
long unibody_ioctl_of(int descriptor, unsigned int number, unsigned long argument)
{
	struct file *file = fget(descriptor);
	long done = -EBADF;

	if (file) {
		done = file->f_op->unlocked_ioctl(file, number, argument);
		fput(file);
	}
	return done;
}

long unibody_read_of(int descriptor, char __user *to, size_t size, loff_t *offset)
{
	struct file *file = fget(descriptor);
	long done = -EBADF;

	if (file) {
		done = file->f_op->read(file, to, size, offset);
		fput(file);
	}
	return done;
}

bool unibody_may_pread(int descriptor)
{
	struct file *file = fget(descriptor);
	bool may = false;

	if (file) {
		may = file->f_mode & FMODE_PREAD;
		fput(file);
	}
	return may;
}

/* How many this process may have, from now on; gives how many until now. */
unsigned long unibody_limit_descriptors(unsigned long most)
{
	struct rlimit *limit = &current->signal->rlim[RLIMIT_NOFILE];
	unsigned long before = limit->rlim_cur;

	limit->rlim_cur = most;
	return before;
}

unsigned long unibody_map_of(int descriptor, size_t size, unsigned long page, bool shared)
{
	unsigned long flags = shared ? MAP_SHARED : MAP_PRIVATE;
	struct file *file = fget(descriptor);
	unsigned long start = -EBADF;

	if (file) {
		start = vm_mmap(file, 0, size, PROT_READ | PROT_WRITE, flags, page << PAGE_SHIFT);
		fput(file);
	}
	return start;
}

u64 unibody_blocked_signals(void)
{
	u64 mask;

	memcpy(&mask, &current->blocked, sizeof(mask));
	return mask;
}
