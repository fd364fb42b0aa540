# What `cargo xtask check nest` runs where the project's own module is loaded: see xtask/src/nest/own_module.rs. Arguments: how often; the program
# of the tests that are about a machine; how many seconds the fuzz target has, the folder that it is in, and how long its inputs are; calls of the kernel's tests, each a limit in seconds, a program and its parameters.

failed() {
    echo "failed: $*"
    exit 1
}

# What the kernel holds and cannot take back, in KiB.
held() {
    sed -n 's/^SUnreclaim: *\([0-9]*\) kB$/\1/p' /proc/meminfo
}

# As an ordinary user, who was let.
cp -r "$HOME/.cache" /tmp/cache
chown -R 65534:65534 /tmp/cache

# In a shell of its own, whose place it takes.
guest() {
    exec /bin/setpriv --reuid=65534 --regid=65534 --clear-groups env HOME=/tmp XDG_CACHE_HOME=/tmp/cache \
        unibody run --engine unibody --memory 256M "$@"
}

# Makes ioctls as an ordinary user for some seconds. What has failed is printed, and can be made again: see CONTRIBUTING.md.
fuzz() {
    mkdir -p /tmp/fuzz/found
    chmod -R 777 /tmp/fuzz
    at_first=$(held)
    # The kernel goes on, and the program says which input it was.
    echo 0 >/proc/sys/kernel/panic_on_oops
    # What takes milliseconds elsewhere takes longer here.
    timeout -s KILL $((2 * $1 + 120)) /bin/setpriv --reuid=65534 --regid=65534 --clear-groups \
        env UNIBODY_FUZZ_DEVICE=/dev/unibody "$2/ioctls" /tmp/fuzz/found "$2/corpus" -artifact_prefix=/tmp/fuzz/ \
        -max_total_time="$1" "$3" -timeout=60 -rss_limit_mb=1024 -verbosity=0 -print_final_stats=1 >/tmp/said 2>&1 || {
        status=$?
        cat /tmp/said
        for input in /tmp/fuzz/*-*; do
            [ ! -f "$input" ] || { echo "${input##*/}, in base64:" && base64 "$input"; }
        done
        dmesg | tail -n 100
        failed "the fuzz target ended with status $status"
    }
    echo 1 >/proc/sys/kernel/panic_on_oops
    cases=$(sed -n 's/^stat::number_of_executed_units: *//p' /tmp/said)
    # What is not given back does not depend on how many cases there were.
    lost=$(($(held) - at_first))
    [ $lost -lt 8192 ] || failed "memory is lost: $lost KiB in $cases cases"
    [ "${cases:-0}" -gt "$(ls "$2/corpus" | wc -l)" ] || failed "the fuzz target made no case of its own"
}

rounds=$1
tests=$2
seconds=$3
target=$4
max_len=$5
shift 5
"$tests" module:: module_split:: --test-threads 1 | tee /tmp/tests
grep -q '^test result: ' /tmp/tests || failed "the guests of the tests broke off"
# As in gate.sh: an interrupt may come late here, and who waits for it gives up.
repeats=3
for name in $(sed -n 's/^test \(.*\) \.\.\. FAILED$/\1/p' /tmp/tests); do
    echo "once more: $name"
    [ $repeats != 0 ] || failed "too many of the tests' guests"
    repeats=$((repeats - 1))
    "$tests" --exact "$name" || failed "a guest of the tests"
done

# What the kernel's tracing has of a guest: an exit after each entry, and an entry after each event that is injected.
mount -t tracefs tracefs /sys/kernel/tracing || failed "there is no tracing"
trace=/sys/kernel/tracing
echo 1024 >$trace/buffer_size_kb
chmod 666 /dev/unibody
echo 1 >$trace/events/unibody/enable || failed "the module has no trace events"
(guest --cpus 1 -- true) || failed "a guest that is traced ended with status $?"
echo 0 >$trace/events/unibody/enable
sed -n 's/.* \(unibody_[a-z]*: .*\)/\1/p' $trace/trace >/tmp/traced
# An access to a port of the first serial line is an exit that every boot has.
for line in 'unibody_entry: vcpu 0, rip 0x[0-9a-f]+$' \
    'unibody_exit: vcpu 0, rip 0x[0-9a-f]+, reason 0x7b, info1 0x3f[89a-f][0-9a-f]{4}, info2 0x[0-9a-f]+$' \
    'unibody_inject: vcpu 0, vector 0x[2-9a-f][0-9a-f], interrupt, error code 0x0 \(none\)$'; do
    grep -qE "$line" /tmp/traced || failed "of a guest there is no trace event as: $line"
done
sed 's/^unibody_\([a-z]*\): .*/\1/' /tmp/traced | awk '
    NR > 1 && ($1 == "exit") != (last == "entry") || last == "inject" && $1 != "entry" { wrong = 1 }
    { last = $1 }
    END { exit wrong }
' || failed "the trace events are not in order"
echo "$(wc -l </tmp/traced) trace events"
echo >$trace/trace

round=0
while [ $round -lt "$rounds" ]; do
    chmod 666 /dev/unibody
    for cpus in 1 2; do
        told=$(guest --cpus $cpus -- sh -c 'grep -c ^processor /proc/cpuinfo; uname -s; exit 7')
        status=$?
        [ "$status" = 7 ] || failed "a guest with $cpus processors ended with status $status: $told"
        # Words are apart.
        # shellcheck disable=SC2086
        [ "$(echo $told)" = "$cpus Linux" ] || failed "a guest with $cpus processors said: $told"
    done
    guest -- true &
    running=$!
    until [ "$(cat /sys/module/unibody/refcnt)" != 0 ]; do
        kill -0 $running || failed "a guest did not start"
        sleep 0.05
    done
    rmmod unibody 2>/dev/null && failed "the module was removed under a guest"
    kill -KILL $running
    wait $running
    # What the process had is given up when it is gone for whoever waits, or right after.
    tries=0
    until rmmod unibody 2>/dev/null; do
        tries=$((tries + 1))
        [ $tries -lt 100 ] || failed "the module is in use, though nobody is there"
        sleep 0.05
    done
    insmod /nest/unibody.ko || failed "the module is not loaded again"
    round=$((round + 1))
    # What the first rounds have filled is not given back.
    [ $round != 2 ] || before=$(held)
done
[ $round -lt 4 ] || [ $(($(held) - before)) -lt $((256 * round)) ] || failed "memory is lost: $before KiB, and now $(held)"

grep unibody_ $trace/trace && failed "what nobody asked for is traced"

chmod 666 /dev/unibody
fuzz "$seconds" "$target" "$max_len"
echo "$cases sequences of ioctls in $seconds seconds"

# Beside kvm_amd: who has a VM first has the processor. What has one holds it without a guest.
for module in /nest/modules/*; do
    insmod "$module" || failed "$module is not loaded beside the module"
done
kvm() {
    exec qemu-system-x86_64 -machine none -accel kvm -nodefaults -no-user-config -display none -S
}
# Waits until a process has a VM.
has_vm() {
    until ls -l /proc/"$1"/fd 2>/dev/null | grep -q anon_inode:kvm-vm; do
        kill -0 "$1" 2>/dev/null || failed "who was to have a VM has ended"
        sleep 0.05
    done
}
# Ends a process, and waits until a module is nobody's any more.
end_of() {
    kill -KILL "$1"
    wait "$1"
    tries=0
    until [ "$(cat /sys/module/"$2"/refcnt)" = 0 ]; do
        tries=$((tries + 1))
        [ $tries -lt 100 ] || failed "$2 is in use, though nobody is there"
        sleep 0.05
    done
}
# refused STATUS WORDS…: what it comes to that /tmp/said is of.
refused() {
    [ "$1" = 125 ] || failed "a VM beside another hypervisor's ended with status $1: $(cat /tmp/said)"
    grep -q "cannot make a virtual machine on $2: another hypervisor has the processor, as $3 " /tmp/said ||
        failed "it is not told why there is no VM: $(cat /tmp/said)"
}
chmod 666 /dev/unibody
kvm &
holder=$!
has_vm $holder
(guest -- true) >/tmp/said 2>&1
refused $? unibody "Linux's KVM"
cat /tmp/said
dmesg | grep "unibody: processor 0 is another hypervisor's" || failed "the kernel's log does not tell who has the processor"
unibody doctor >/tmp/said
grep -A 8 '^Module$' /tmp/said
grep -q '^  kvm_amd  *loaded, and in use: ' /tmp/said || failed "the doctor does not see who has the processor"
end_of $holder kvm_amd
(guest -- true) || failed "a guest after kvm_amd's ended with status $?"
guest -- sleep 1000 &
holder=$!
has_vm $holder
(kvm) >/tmp/said 2>&1 &
other=$!
while kill -0 $other 2>/dev/null; do
    ls -l /proc/$other/fd 2>/dev/null | grep anon_inode:kvm-vm && failed "kvm_amd has a VM beside the module's"
    sleep 0.05
done
grep -q 'KVM_CREATE_VM.*busy' /tmp/said || failed "QEMU said: $(cat /tmp/said)"
unibody run --engine kvm -- true >/tmp/said 2>&1
refused $? kvm "Unibody's module"
cat /tmp/said
end_of $holder unibody
kvm &
holder=$!
has_vm $holder
end_of $holder kvm_amd
rmmod kvm_amd kvm || failed "kvm_amd is in use"

# As any VMM finds it.
rmmod unibody || failed "the module is in use, though the fuzz target is gone"
insmod /nest/unibody.ko device=kvm || failed "the module is not loaded as /dev/kvm"
repeats=2
for call in "$@"; do
    # Words are apart.
    # shellcheck disable=SC2086
    timeout -s KILL $call >/tmp/said 2>&1 || {
        cat /tmp/said
        # As above: what is late on a busy host is over its limit.
        echo "once more: $call"
        [ $repeats != 0 ] || failed "too many of the kernel's tests"
        repeats=$((repeats - 1))
        # shellcheck disable=SC2086
        timeout -s KILL $call >/tmp/said 2>&1 || {
            cat /tmp/said
            failed "$call"
        }
    }
done
mkdir -p /tmp/guest/bin /tmp/guest/proc
cp "$HOME"/.cache/unibody/current/bin/busybox /tmp/guest/bin
cat >/tmp/guest/init <<'END'
#!/bin/busybox sh
/bin/busybox echo "QEMU's guest runs: $(/bin/busybox uname -s)"
/bin/busybox reboot -f
END
chmod +x /tmp/guest/init
(cd /tmp/guest && find . | cpio -o -H newc 2>/dev/null) >/tmp/initrd
timeout -s KILL 120 qemu-system-x86_64 -machine microvm -accel kvm -cpu host -nodefaults -no-user-config -display none \
    -serial stdio -m 256 -no-reboot -kernel "$HOME"/.cache/unibody/current/boot/vmlinuz-* -initrd /tmp/initrd \
    -append 'console=ttyS0 reboot=t panic=-1' >/tmp/said 2>&1 || failed "QEMU ended with status $?: $(tail -n 5 /tmp/said)"
grep "QEMU's guest runs: Linux" /tmp/said || failed "QEMU's guest said: $(tail -n 5 /tmp/said)"
rmmod unibody || failed "the module is in use"

dmesg | grep -E 'WARNING:|BUG:|Oops|leak' && failed "the kernel complains"
echo "$round rounds of guests with 1 and 2 processors, and of the module; $# of the kernel's tests of KVM; QEMU"
