# What `cargo xtask check nest` runs in the nest: see xtask/src/nest/gate.rs. Arguments: an engine and its options; a program of
# tests, and words for it; and so on.

# The end-to-end tests run `unibody` as an unprivileged user: see tools/unibody/tests/support/mod.rs.
chmod 666 /dev/kvm
cp -r "$HOME/.cache" /tmp/cache
chown -R 65534:65534 /tmp/cache
export UNIBODY_TEST_PROGRAM=/bin/unibody UNIBODY_TEST_CACHE=/tmp/cache
export UNIBODY_TEST_SHELF=/nest/tests/built
cd /

failed=0

# QEMU's processor now and then delivers an interrupt late (see xtask/src/nest/machine.rs), and who waits for it gives up: what
# fails is tried once more, and that is said. So many tests may be.
repeats=3

# repeat PROGRAM TEST
repeat() {
    if [ $repeats = 0 ]; then
        echo "not once more: $2. Too many failed"
        return 1
    fi
    repeats=$((repeats - 1))
    echo "once more: $2"
    "$1" --exact "$2"
}

# tests NAME WORD...: runs those of a program that the words choose, one by one.
tests() {
    program=/nest/tests/$1
    echo "$1 ($UNIBODY_TEST_ENGINE):"
    shift
    "$program" "$@" --test-threads 1 | tee /tmp/tests
    # A program that broke off has not said how its tests went.
    if ! grep -q '^test result: ' /tmp/tests; then
        failed=1
        return
    fi
    for name in $(sed -n 's/^test \(.*\) \.\.\. FAILED$/\1/p' /tmp/tests); do
        repeat "$program" "$name" || failed=1
    done
}

while [ $# -gt 0 ]; do
    export UNIBODY_TEST_ENGINE="$1"
    # Words are apart.
    # shellcheck disable=SC2086
    tests $2
    shift 2
done
[ $failed = 0 ] || exit 1
