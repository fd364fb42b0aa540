// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
/* What the kernel does for a program: calls, processes, pipes, pages, files. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "workload.h"

/* One operation is a system call that does next to nothing. */
static void null_call(unsigned long count)
{
	while (count--)
		USED(syscall(SYS_getppid));
}

/* One operation is a process: made, ended, and waited for. */
static void fork_and_wait(unsigned long count)
{
	while (count--) {
		int status;
		pid_t child = fork();

		if (child < 0)
			fail("fork");
		if (child == 0)
			_exit(0);
		if (waitpid(child, &status, 0) != child || status != 0)
			fail("waitpid");
	}
}

/* One operation is a byte to another process and back. */
static void ping_pong(unsigned long count)
{
	int there[2], back[2], status;
	char byte = 1;
	pid_t child;

	if (pipe(there) != 0 || pipe(back) != 0)
		fail("pipe");
	child = fork();
	if (child < 0)
		fail("fork");
	if (child == 0) {
		close(there[1]);
		while (read(there[0], &byte, 1) == 1)
			if (write(back[1], &byte, 1) != 1)
				_exit(1);
		_exit(0);
	}
	while (count--)
		if (write(there[1], &byte, 1) != 1 || read(back[0], &byte, 1) != 1)
			fail("a pipe");
	close(there[0]);
	close(there[1]);
	close(back[0]);
	close(back[1]);
	if (waitpid(child, &status, 0) != child || status != 0)
		fail("waitpid");
}

#define PAGES 256
#define PAGE 4096

/* One operation is a page's first touch, with its share of mapping and unmapping. */
static void fault(unsigned long count)
{
	while (count--) {
		volatile char *pages = map_pages(PAGES * PAGE);

		for (int i = 0; i < PAGES; i++)
			pages[i * PAGE] = 1;
		if (munmap((void *)pages, PAGES * PAGE) != 0)
			fail("munmap");
	}
}

static char content[PAGE], name[64];

static void prepare_file(void)
{
	memset(content, 1, sizeof(content));
	snprintf(name, sizeof(name), "workload-%d", (int)getpid());
}

/* One operation is a file of 4 KiB in the current folder: made, written, unlinked. */
static void file(unsigned long count)
{
	while (count--) {
		int fd = open(name, O_CREAT | O_EXCL | O_WRONLY, 0600);

		if (fd < 0)
			fail("open");
		if (write(fd, content, sizeof(content)) != sizeof(content))
			fail("write");
		if (close(fd) != 0 || unlink(name) != 0)
			fail("unlink");
	}
}

const struct workload kernel_workloads[] = {
	{ "syscall", 1, NULL, null_call },
	{ "fork", 1, NULL, fork_and_wait },
	{ "pipe", 1, NULL, ping_pong },
	{ "fault", PAGES, NULL, fault },
	{ "file", 1, prepare_file, file },
	{ 0 },
};
