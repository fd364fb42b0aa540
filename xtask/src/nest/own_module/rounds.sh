
# What a guest writes to a disk is there when it is off.
chmod 666 /dev/unibody
truncate -s 8M /tmp/disk
chmod 666 /tmp/disk
guest --disk /tmp/disk -- sh -c 'echo kept | dd of=/dev/vda conv=fsync 2>/dev/null' || failed "a guest cannot write to its disk"
[ "$(head -c 4 /tmp/disk)" = kept ] || failed "what a guest wrote to its disk is not there"

# Guests as people have them, and the module removed under one.
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
    become_guest -- true &
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
