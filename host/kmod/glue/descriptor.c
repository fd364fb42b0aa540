// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
/*
 * Descriptors of the device, VMs, vCPUs and statistics, and the device's
 * node: src/descriptor.rs, src/device.rs.
 */
#include <linux/anon_inodes.h>
#include <linux/err.h>
#include <linux/fcntl.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/miscdevice.h>
#include <linux/mm.h>
#include <linux/module.h>

#include "glue.h"

static char *device = "unibody";
module_param(device, charp, 0444);
MODULE_PARM_DESC(device, "name of the device's node: unibody, or kvm");

static long ioctl(struct file *file, unsigned int number, unsigned long argument)
{
	return unibody_ioctl(file->private_data, number, argument);
}

static ssize_t read(struct file *file, char __user *to, size_t size, loff_t *offset)
{
	return unibody_read(file->private_data, to, size, offset);
}

static vm_fault_t fault(struct vm_fault *fault)
{
	void *page = unibody_mapped_page(fault->vma->vm_file->private_data, fault->pgoff);

	if (!page)
		return VM_FAULT_SIGBUS;
	fault->page = virt_to_page(page);
	get_page(fault->page);
	return 0;
}

static const struct vm_operations_struct mapping = { .fault = fault };

static int mmap(struct file *file, struct vm_area_struct *vma)
{
	bool plain = (vma->vm_flags & VM_SHARED) && !(vma->vm_flags & VM_EXEC);
	int error = unibody_may_map(file->private_data, vma->vm_pgoff, vma_pages(vma), plain);

	if (!error)
		vma->vm_ops = &mapping;
	return error;
}

static int release(struct inode *inode, struct file *file)
{
	/* One that was given up has no object. */
	if (file->private_data)
		unibody_release(file->private_data);
	return 0;
}

/* Of the node: files of other objects are made with theirs. */
static int open(struct inode *inode, struct file *file)
{
	void *object = unibody_open();

	if (IS_ERR(object))
		return PTR_ERR(object);
	file->private_data = object;
	return 0;
}

/* A file holds the module. */
static const struct file_operations operations = {
	.owner = THIS_MODULE,
	.open = open,
	.unlocked_ioctl = ioctl,
	.compat_ioctl = compat_ptr_ioctl,
	.read = read,
	.mmap = mmap,
	.release = release,
	.llseek = noop_llseek,
};

/*
 * A descriptor of this process, or a negative error number, and its file, which
 * nobody sees before it is installed or given up. positions: it is read at any
 * offset, as by pread.
 */
int unibody_descriptor_reserve(const char *name, bool positions, struct file **file)
{
	int descriptor = get_unused_fd_flags(O_CLOEXEC);

	if (descriptor < 0)
		return descriptor;
	*file = anon_inode_getfile(name, &operations, NULL, O_RDWR);
	if (IS_ERR(*file)) {
		put_unused_fd(descriptor);
		return PTR_ERR(*file);
	}
	if (positions)
		(*file)->f_mode |= FMODE_PREAD;
	return descriptor;
}

void unibody_descriptor_install(int descriptor, struct file *file, void *object)
{
	file->private_data = object;
	fd_install(descriptor, file);
}

void unibody_descriptor_give_up(int descriptor, struct file *file)
{
	put_unused_fd(descriptor);
	fput(file);
}

static struct miscdevice node = {
	.fops = &operations,
	.mode = 0600,
};

const char *unibody_node_name(void)
{
	return device;
}

/* With the number of Linux's own KVM, or any. */
int unibody_node_register(bool kvms)
{
	node.minor = kvms ? KVM_MINOR : MISC_DYNAMIC_MINOR;
	node.name = device;
	return misc_register(&node);
}

void unibody_node_deregister(void)
{
	misc_deregister(&node);
}
