// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
/*
 * Descriptors of the device, VMs, vCPUs and statistics, and the device's
 * node: src/descriptor.rs, src/device.rs.
 */
#include <linux/anon_inodes.h>
#include <linux/err.h>
#include <linux/fcntl.h>
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
	unibody_release(file->private_data);
	return 0;
}

/* A file holds the module. */
static const struct file_operations operations = {
	.owner = THIS_MODULE,
	.unlocked_ioctl = ioctl,
	.compat_ioctl = compat_ptr_ioctl,
	.read = read,
	.mmap = mmap,
	.release = release,
	.llseek = noop_llseek,
};

/* A new descriptor of this process, or a negative error number. */
int unibody_descriptor_new(const char *name, void *object)
{
	return anon_inode_getfd(name, &operations, object, O_RDWR | O_CLOEXEC);
}

static int open(struct inode *inode, struct file *file)
{
	void *object = unibody_open();

	if (IS_ERR(object))
		return PTR_ERR(object);
	file->private_data = object;
	return 0;
}

static const struct file_operations node_operations = {
	.owner = THIS_MODULE,
	.open = open,
	.unlocked_ioctl = ioctl,
	.compat_ioctl = compat_ptr_ioctl,
	.read = read,
	.mmap = mmap,
	.release = release,
	.llseek = noop_llseek,
};

static struct miscdevice node = {
	.fops = &node_operations,
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
