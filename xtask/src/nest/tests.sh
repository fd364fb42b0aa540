# Tests that are programs, in the nest: what gate.sh and own_module's scripts begin with. See xtask/src/nest/gate.rs.

# The end-to-end tests run `unibody` as an unprivileged user: see tools/unibody/tests/support/mod.rs.
cp -r "$HOME/.cache" /tmp/cache
chown -R 65534:65534 /tmp/cache
export UNIBODY_TEST_PROGRAM=/bin/unibody UNIBODY_TEST_CACHE=/tmp/cache
export UNIBODY_TEST_SHELF=/nest/tests/built
cd /

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

# tests NAME WORD...: runs those of a program that the words choose, one by one. Fails if one does.
tests() {
    program=/nest/tests/$1
    echo "$1 ($UNIBODY_TEST_ENGINE):"
    shift
    "$program" "$@" --test-threads 1 | tee /tmp/tests
    # The folder is in memory.
    rm -rf /tmp/unibody-tests-0/disks
    # A program that broke off has not said how its tests went, and a name that chooses none is of a test that has another one now.
    grep -q '^test result: ' /tmp/tests || return 1
    case " $* " in *" --exact "*) ! grep -q '^running 0 tests' /tmp/tests || return 1 ;; esac
    status=0
    for name in $(sed -n 's/^test \(.*\) \.\.\. FAILED$/\1/p' /tmp/tests); do
        repeat "$program" "$name" || status=1
    done
    return $status
}
