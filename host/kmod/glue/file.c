// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
/*
 * Open files of who makes calls: src/file.rs.
 */
#include <linux/err.h>
#include <linux/file.h>
#include <linux/module.h>

#include "glue.h"

/* An error number as ERR_PTR gives it. */
struct file *unibody_file_get(int descriptor)
{
	struct file *file = fget(descriptor);

	return file ? file : ERR_PTR(-EBADF);
}

void unibody_file_put(struct file *file)
{
	fput(file);
}

/*
 * Not linked to: the kernel may have no VFIO, or not yet. Without it there are no groups.
 */
bool unibody_file_is_vfio_group(struct file *file)
{
	bool (*is_group)(struct file *file) = __symbol_get("vfio_file_is_group");
	bool is = false;

	if (is_group) {
		is = is_group(file);
		__symbol_put("vfio_file_is_group");
	}
	return is;
}
