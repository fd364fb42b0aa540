
# Ioctls of an ordinary user's for some seconds. What has failed is printed, and can be made again: see CONTRIBUTING.md.
chmod 666 /dev/unibody
mkdir -p /tmp/fuzz/found
chmod -R 777 /tmp/fuzz
at_first=$(held)
# The kernel goes on, and the program says which input it was.
echo 0 >/proc/sys/kernel/panic_on_oops
# What takes milliseconds elsewhere takes longer here.
timeout -s KILL $((2 * seconds + 120)) /bin/setpriv --reuid=65534 --regid=65534 --clear-groups \
    env UNIBODY_FUZZ_DEVICE=/dev/unibody "$target/ioctls" /tmp/fuzz/found "$target/corpus" -artifact_prefix=/tmp/fuzz/ \
    -max_total_time="$seconds" "$max_len" -timeout=60 -rss_limit_mb=1024 -verbosity=0 -print_final_stats=1 >/tmp/said 2>&1 || {
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
[ "${cases:-0}" -gt "$(ls "$target/corpus" | wc -l)" ] || failed "the fuzz target made no case of its own"
echo "$cases sequences of ioctls in $seconds seconds"
