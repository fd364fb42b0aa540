/*
 * What BusyBox does not do with files, in the folder that is given: one line for each, with what came of it.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/xattr.h>
#include <unistd.h>

static void say(const char *what, int failed)
{
	printf("%s: %s\n", what, failed ? strerror(errno) : "ok");
}

/* A file without a name is given one. */
static int tmpfile_linked(void)
{
	char path[64];
	int fd = open(".", O_TMPFILE | O_RDWR, 0644);

	if (fd < 0 || write(fd, "unnamed", 7) != 7)
		return -1;
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	if (linkat(AT_FDCWD, path, AT_FDCWD, "named", AT_SYMLINK_FOLLOW) < 0)
		return -1;
	return close(fd);
}

/* What is written to a shared mapping is read from the file, and the other way. */
static int mapped(void)
{
	char bytes[4] = "";
	char *map;
	int fd = open("mapped", O_CREAT | O_RDWR, 0644);

	if (fd < 0 || ftruncate(fd, 3 * 4096) < 0)
		return -1;
	map = mmap(NULL, 3 * 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (map == MAP_FAILED)
		return -1;
	memcpy(map + 4095, "abc", 3);
	if (msync(map, 3 * 4096, MS_SYNC) < 0 || pread(fd, bytes, 3, 4095) != 3)
		return -1;
	errno = EILSEQ;
	if (memcmp(bytes, "abc", 3) != 0 || pwrite(fd, "xyz", 3, 8191) != 3)
		return -1;
	errno = EILSEQ;
	return memcmp(map + 8191, "xyz", 3) != 0 ? -1 : munmap(map, 3 * 4096);
}

static int attribute(void)
{
	char value[8] = "", names[256] = "";

	if (setxattr("mapped", "user.unibody", "value", 5, 0) < 0)
		return -1;
	if (getxattr("mapped", "user.unibody", value, sizeof(value)) != 5)
		return -1;
	if (listxattr("mapped", names, sizeof(names)) < 0)
		return -1;
	errno = EILSEQ;
	return strcmp(value, "value") != 0 || !memmem(names, sizeof(names), "user.unibody", 13) ? -1 : 0;
}

/* Neither of two names is gone for a moment. */
static int exchanged(void)
{
	if (mkdir("left", 0755) < 0 || mkdir("right", 0755) < 0 || mknod("left/x", S_IFREG | 0644, 0) < 0)
		return -1;
	if (renameat2(AT_FDCWD, "left", AT_FDCWD, "right", RENAME_EXCHANGE) < 0)
		return -1;
	return access("right/x", F_OK);
}

static int not_replaced(void)
{
	if (mknod("kept", S_IFREG | 0644, 0) < 0)
		return -1;
	if (renameat2(AT_FDCWD, "kept", AT_FDCWD, "mapped", RENAME_NOREPLACE) == 0 || errno != EEXIST)
		return -1;
	return 0;
}

static int bound(void)
{
	struct sockaddr_un name = { .sun_family = AF_UNIX, .sun_path = "socket" };
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);

	return bind(fd, (struct sockaddr *)&name, sizeof(name));
}

/* It is read and written after its last name is gone. */
static int without_name(void)
{
	char byte = 0;
	int fd = open("gone", O_CREAT | O_RDWR, 0600);

	if (fd < 0 || unlink("gone") < 0 || write(fd, "x", 1) != 1)
		return -1;
	errno = EILSEQ;
	return pread(fd, &byte, 1, 0) != 1 || byte != 'x' ? -1 : close(fd);
}

static int holes(void)
{
	int fd = open("holes", O_CREAT | O_RDWR, 0644);

	if (fd < 0 || pwrite(fd, "x", 1, 1 << 20) != 1)
		return -1;
	if (fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, 4096) < 0)
		return -1;
	errno = EILSEQ;
	return lseek(fd, 0, SEEK_END) == (1 << 20) + 1 ? fsync(fd) : -1;
}

/* Every handle of a file by which somebody might come to one that is not shared. */
static int handles_lead_nowhere(void)
{
	union {
		struct file_handle handle;
		char room[sizeof(struct file_handle) + MAX_HANDLE_SZ];
	} name = { .handle.handle_bytes = MAX_HANDLE_SZ };
	int at = open(".", O_RDONLY), mount;
	unsigned int byte, value;

	if (name_to_handle_at(AT_FDCWD, ".", &name.handle, &mount, 0) < 0)
		return errno == EOPNOTSUPP ? 0 : -1;
	for (byte = 0; byte < name.handle.handle_bytes; byte++) {
		for (value = 0; value < 256; value++) {
			unsigned char *bytes = name.handle.f_handle, was = bytes[byte];
			struct stat found, root;
			int fd;

			bytes[byte] = value;
			fd = open_by_handle_at(at, &name.handle, O_RDONLY);
			bytes[byte] = was;
			if (fd < 0)
				continue;
			/* Of the share's own files only. */
			if (fstat(fd, &found) < 0 || fstat(at, &root) < 0 || found.st_dev != root.st_dev) {
				errno = EXDEV;
				return -1;
			}
			close(fd);
		}
	}
	return 0;
}

int main(int argc, char **argv)
{
	if (argc != 2 || chdir(argv[1]) < 0) {
		perror("the folder");
		return 1;
	}
	say("O_TMPFILE", tmpfile_linked());
	say("mmap", mapped());
	say("xattr", attribute());
	say("exchange", exchanged());
	say("noreplace", not_replaced());
	say("socket", bound());
	say("without a name", without_name());
	say("holes", holes());
	say("handles", handles_lead_nowhere());
	return 0;
}
