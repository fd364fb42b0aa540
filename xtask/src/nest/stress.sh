# What `cargo xtask check nest` runs where the project's own module is loaded and its guests are not left in peace: see xtask/src/nest/stress.rs.
# Arguments: how many seconds a case lasts; how many processes are killed; a seed.

failed() {
    echo "failed: $*"
    exit 1
}

# What a kernel that looks for mistakes says of them.
complaints() {
    dmesg | grep -E 'WARNING:|BUG|Oops|leak'
    # A bad page, an oops, a warning: bits of what has befallen it.
    [ $(($(cat /proc/sys/kernel/tainted) & (32 | 128 | 512))) = 0 ] || echo "tainted: $(cat /proc/sys/kernel/tainted)"
}

# What the kernel holds that is no process's and that it cannot take back, in KiB: slabs, page tables, and pages that nothing counts.
# Of several looks the least: pages come back late, and by way of each processor's own list.
held() {
    for look in 1 2 3 4 5 6 7 8; do
        echo 3 >/proc/sys/vm/drop_caches
        echo 1 >/proc/sys/vm/compact_memory
        holds_now
        sleep 0.25
    done | sort -n | head -n 1
}

holds_now() {
    awk '{ of[$1] = $2 }
        END {
            print of["MemTotal:"] - of["MemFree:"] - of["Buffers:"] - of["Cached:"] - of["SwapCached:"] - of["AnonPages:"] - of["KReclaimable:"]
        }' /proc/meminfo
}

# Of these what is in slabs.
in_slabs() {
    sed -n 's/^SUnreclaim: *\([0-9]*\) kB$/\1/p' /proc/meminfo
}

# Hundredths of a second since the start.
clock() {
    sed 's/ .*//; s/\.//' /proc/uptime
}

# As an ordinary user, who was let; in a shell of its own, whose place it takes.
as_user() {
    exec /bin/setpriv --reuid=65534 --regid=65534 --clear-groups env HOME=/tmp XDG_CACHE_HOME=/tmp/cache "$@"
}

guest() {
    as_user unibody run --root none --engine unibody --memory 256M "$@"
}

# The program whose guest looks at its memory, with the names of cases.
pressure() {
    as_user pressure /dev/unibody "$seconds" "$seed" "$@"
}

# Has what follows in this shell have so much memory, and swap beyond it.
confine() {
    mkdir -p "/tmp/cgroup/$1" && echo "$1" >"/tmp/cgroup/$1/memory.high" || exit
    # The shell itself, for what it becomes.
    echo 0 >"/tmp/cgroup/$1/cgroup.procs" || exit
}

# Until nobody has the module, for a while: what a process had is given up when it is gone for whoever waits, or right after.
unused() {
    tries=0
    until [ "$(cat /sys/module/unibody/refcnt)" = 0 ]; do
        tries=$((tries + 1))
        [ $tries -lt 200 ] || failed "the module is in use, though nobody is there"
        sleep 0.05
    done
}

seconds=$1
kills=$2
seed=$3
echo "seed $seed, $seconds seconds for each case, $kills kills"
cp -r "$HOME/.cache" /tmp/cache
chown -R 65534:65534 /tmp/cache
chmod 666 /dev/unibody
for check in sanity_checks poison red_zone store_user; do
    [ "$(cat /sys/kernel/slab/kmalloc-64/$check)" = 1 ] || failed "slabs are without $check"
done
[ "$(cat /proc/sys/kernel/panic_on_warn)" = 1 ] || failed "a warning would not be the end"

# What the cases need that only root may do.
mkswap /dev/nvme0n1 >/dev/null && swapon /dev/nvme0n1 || failed "there is no swap"
echo 10000 >/sys/kernel/mm/ksm/pages_to_scan
echo 1 >/sys/kernel/mm/ksm/sleep_millisecs
echo 1 >/sys/kernel/mm/ksm/run
echo 10 >/sys/kernel/mm/transparent_hugepage/khugepaged/scan_sleep_millisecs
echo 1 >/sys/kernel/mm/transparent_hugepage/khugepaged/alloc_sleep_millisecs

mkdir /tmp/cgroup
mount -t cgroup2 cgroup /tmp/cgroup && echo +memory >/tmp/cgroup/cgroup.subtree_control || failed "memory has no limits"

(pressure pages_are_dropped dropped_pages_are_zeros pages_are_mapped_anew pages_are_protected pages_are_moved_to_another_address \
    a_child_has_the_pages_of_its_time alike_pages_are_merged huge_pages_come_and_go pages_are_migrated threads_are_moved) ||
    failed "a guest under pressure"
# With less memory than the guest's pages take.
(confine 14M && pressure pages_are_swapped_out) || failed "a guest that is swapped out"
unused
while true; do
    echo 1 >/proc/sys/vm/compact_memory
    sleep 0.1
done &
compacting=$!
(confine 20M && pressure all_at_once) || failed "a guest under pressure, with compaction"
unused
kill $compacting

# Killed at any time between before the first call and the end; the earlier the more often.
start=$(clock)
(guest -- true) || failed "a guest that is not killed"
hundredths=$(($(clock) - start))
echo "a guest that is not killed takes $hundredths hundredths of a second"
awk -v seed="$seed" -v count="$kills" -v most="$hundredths" 'BEGIN {
    srand(seed)
    for (n = 0; n < count; n++) {
        part = (n + rand()) / count
        printf "%.4f\n", most / 100 * part * part * part
    }
}' >/tmp/delays
number=0
in_use=0
before=
while read -r delay; do
    case $((number % 2)) in
        0) guest -- true >/dev/null 2>&1 & ;;
        1) as_user pressure /dev/unibody 60 $((seed + number)) all_at_once & ;;
    esac
    process=$!
    sleep "$delay"
    [ "$(cat /sys/module/unibody/refcnt)" = 0 ] || in_use=$((in_use + 1))
    # A guest may have ended just before.
    kill -KILL $process 2>/dev/null || [ $((number % 2)) = 0 ] || failed "process $number, to be killed after $delay s, has ended before"
    wait $process 2>/dev/null
    unused
    number=$((number + 1))
    # What the first have filled is not given back.
    if [ $number = $(((kills + 4) / 5)) ]; then
        before=$(held)
        slabs_before=$(in_slabs)
    fi
done </tmp/delays
after=$(held)
slabs_after=$(in_slabs)
echo "$number processes were killed, $in_use of them while they had the module"
echo "the kernel holds $before KiB after a fifth of them, $slabs_before of them in slabs, and $after and $slabs_after KiB after all"
[ $in_use != 0 ] || failed "no process was killed while it had the module"
[ "$kills" -lt 50 ] || [ $((after - before)) -lt $((256 * kills)) ] || failed "memory is lost"
[ "$kills" -lt 50 ] || [ $((slabs_after - slabs_before)) -lt $((32 * kills)) ] || failed "slabs are lost"
rmmod unibody || failed "the module is in use"

complaints | tee /tmp/complaints
[ ! -s /tmp/complaints ] || failed "the kernel complains"
echo "the module under stress: all is well"
