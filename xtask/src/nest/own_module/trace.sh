
# What the kernel's tracing has of a guest: an exit after each entry, and an entry after each event that is injected.
mount -t tracefs tracefs /sys/kernel/tracing || failed "there is no tracing"
trace=/sys/kernel/tracing
echo 1024 >$trace/buffer_size_kb
chmod 666 /dev/unibody
echo 1 >$trace/events/unibody/enable || failed "the module has no trace events"
guest --cpus 1 -- true || failed "a guest that is traced ended with status $?"
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
