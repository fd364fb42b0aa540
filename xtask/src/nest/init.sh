#!/bin/busybox sh
# The nest's first process: see xtask/src/nest.rs. Its own words, and the kernel's, are on ttyS0. The
# command's stdout is ttyS1, its stderr ttyS2. On ttyS3 are lines about how it went, of which
# xtask/src/nest/outcome.rs is the reader.

export PATH=/bin:/sbin:/usr/bin:/usr/sbin HOME=/root

tell() {
    echo "$*" >/dev/ttyS3
}

give_up() {
    tell "failed $*"
    poweroff -f
}

# Sets `now` to the nanoseconds since the start.
read_clock() {
    { read -r _; read -r _; read -r _ _ now _; } </proc/timer_list
}

/bin/busybox --install -s
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs /tmp
ln -s /proc/self/fd /dev/fd
ln -s /proc/self/fd/0 /dev/stdin
ln -s /proc/self/fd/1 /dev/stdout
ln -s /proc/self/fd/2 /dev/stderr

# Bytes go out as they are.
for port in 1 2 3; do
    stty -F /dev/ttyS$port 115200 raw -echo || give_up "stty -F /dev/ttyS$port"
done
if [ -e /nest/unibody.ko ]; then
    insmod /nest/unibody.ko || give_up "insmod unibody.ko"
    [ -c /dev/unibody ] || give_up "there is no /dev/unibody"
else
    for module in /nest/modules/*; do
        insmod "$module" || give_up "insmod $module"
    done
    [ -c /dev/kvm ] || give_up "there is no /dev/kvm"
fi

# Through pipes, for a terminal would have the command behave otherwise.
mkfifo /nest/stdout /nest/stderr
cat </nest/stdout >/dev/ttyS1 &
stdout=$!
cat </nest/stderr >/dev/ttyS2 &
stderr=$!

tell started
read_clock
started=$now
sh /nest/command </dev/null >/nest/stdout 2>/nest/stderr
status=$?
read_clock

# What the command has left running holds its ends of the pipes.
for process in /proc/[0-9]*; do
    case ${process#/proc/} in
        1 | $stdout | $stderr) ;;
        *) kill -KILL "${process#/proc/}" 2>/dev/null ;;
    esac
done
wait
tell "ended $status $((now - started))"
poweroff -f
