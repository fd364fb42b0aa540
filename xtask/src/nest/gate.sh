# What `cargo xtask check nest` runs in the nest: see xtask/src/nest/gate.rs.

failed=0

# Of some fifty interrupts one is lost in the nest, and who waits for it hangs: what fails is tried once more, and
# that is said.

# expect STATUS OUTPUT COMMAND...: the command's status and stdout, and nothing on its stderr.
expect() {
    is_right "$@" || { echo "once more:" && is_right "$@"; } || failed=1
}

is_right() {
    status=$1 output=$2
    shift 2
    got=$(timeout 60 "$@" 2>/tmp/stderr)
    code=$?
    if [ "$code" = "$status" ] && [ "$got" = "$output" ] && ! [ -s /tmp/stderr ]; then
        echo "$* ... ok"
    else
        echo "$* ... FAILED: status $code, stdout '$got', stderr '$(cat /tmp/stderr)'"
        return 1
    fi
}

guests kvm:: kvm_split:: --test-threads 1 >/tmp/guests
cat /tmp/guests
names=$(sed -n 's/^test \(.*\) \.\.\. FAILED$/\1/p' /tmp/guests)
if grep -q '^test result: ' /tmp/guests && [ "$(echo "$names" | wc -w)" -le 3 ]; then
    for name in $names; do
        echo "once more: $name"
        guests --exact "$name" || failed=1
    done
else
    failed=1
fi

run="unibody run --engine kvm"
expect 0 hello $run -- echo hello
expect 7 '' $run -- sh -c 'exit 7'
expect 0 '1 2' $run --cpus 2 --memory 256M -- sh -c 'echo 1 $(nproc)'
expect 0 'GenuineIntel or AuthenticAMD' $run -- sh -c \
    'grep -q -E "GenuineIntel|AuthenticAMD" /proc/cpuinfo && echo GenuineIntel or AuthenticAMD'
expect 0 kvm-clock $run -- cat /sys/devices/system/clocksource/clocksource0/current_clocksource
split="$run --irqchip split"
expect 0 hi $split -- echo hi
expect 0 '1 2' $split --cpus 2 -- sh -c 'echo 1 $(nproc)'
exit $failed
