/*
 * Sockets between the guest and the host, from the guest's side: one program for what a test wants of it.
 *
 *   vsock send PORT          connects to the host's port, sends what is on stdin, and then prints what comes back
 *   vsock serve PORT COUNT   accepts so many connections, one after the other, and sends back what comes
 *   vsock many PORT COUNT    connects so many times at once, says a number on each, and expects it back
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <linux/vm_sockets.h>

static void fail(const char *what)
{
	perror(what);
	exit(1);
}

static struct sockaddr_vm address(unsigned int cid, unsigned int port)
{
	struct sockaddr_vm vm;

	memset(&vm, 0, sizeof(vm));
	vm.svm_family = AF_VSOCK;
	vm.svm_cid = cid;
	vm.svm_port = port;
	return vm;
}

static int stream(void)
{
	int fd = socket(AF_VSOCK, SOCK_STREAM, 0);

	if (fd < 0)
		fail("socket");
	return fd;
}

static int connected(unsigned int port)
{
	struct sockaddr_vm host = address(VMADDR_CID_HOST, port);
	int fd = stream();

	if (connect(fd, (struct sockaddr *)&host, sizeof(host)) < 0)
		fail("connect");
	return fd;
}

static int write_all(int fd, const char *bytes, size_t size)
{
	while (size > 0) {
		ssize_t done = write(fd, bytes, size);

		if (done < 0)
			return -1;
		bytes += done;
		size -= done;
	}
	return 0;
}

/* Copies until there is no more. */
static int copy(int from, int to)
{
	static char bytes[1 << 16];
	ssize_t size;

	while ((size = read(from, bytes, sizeof(bytes))) > 0)
		if (write_all(to, bytes, size) < 0)
			return -1;
	return size;
}

static void send_and_print(unsigned int port)
{
	int fd = connected(port);

	if (copy(STDIN_FILENO, fd) < 0)
		fail("send");
	if (shutdown(fd, SHUT_WR) < 0)
		fail("shutdown");
	if (copy(fd, STDOUT_FILENO) < 0)
		fail("print");
	close(fd);
}

static void serve(unsigned int port, int count)
{
	struct sockaddr_vm any = address(VMADDR_CID_ANY, port);
	int fd = stream();

	if (bind(fd, (struct sockaddr *)&any, sizeof(any)) < 0)
		fail("bind");
	if (listen(fd, 64) < 0)
		fail("listen");
	puts("listening");
	fflush(stdout);
	for (int i = 0; i < count; i++) {
		int client = accept(fd, NULL, NULL);

		if (client < 0)
			fail("accept");
		/* Who does not wait for an answer may be gone. */
		copy(client, client);
		close(client);
	}
	puts("served");
}

static void many(unsigned int port, int count)
{
	int *fds = calloc(count, sizeof(*fds));

	for (int i = 0; i < count; i++)
		fds[i] = connected(port);
	for (int i = 0; i < count; i++)
		if (write_all(fds[i], (const char *)&i, sizeof(i)) < 0)
			fail("write");
	for (int i = 0; i < count; i++) {
		int back = -1;

		if (read(fds[i], &back, sizeof(back)) != sizeof(back) || back != i)
			fail("read back");
		close(fds[i]);
	}
	puts("all");
	free(fds);
}

int main(int argc, char **argv)
{
	unsigned int port = argc > 2 ? strtoul(argv[2], NULL, 10) : 0;
	int count = argc > 3 ? atoi(argv[3]) : 0;

	signal(SIGPIPE, SIG_IGN);
	if (argc > 2 && strcmp(argv[1], "send") == 0)
		send_and_print(port);
	else if (argc > 3 && strcmp(argv[1], "serve") == 0)
		serve(port, count);
	else if (argc > 3 && strcmp(argv[1], "many") == 0)
		many(port, count);
	else
		return 2;
	return 0;
}
