
# What `cargo xtask check nest` runs in the nest: see xtask/src/nest/gate.rs. Arguments: an engine and its options; a program of
# tests, and words for it; and so on.
chmod 666 /dev/kvm
failed=0
while [ $# -gt 0 ]; do
    export UNIBODY_TEST_ENGINE="$1"
    # Words are apart.
    # shellcheck disable=SC2086
    tests $2 || failed=1
    shift 2
done
[ $failed = 0 ] || exit 1
