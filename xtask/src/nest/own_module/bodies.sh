
# The guests of the tests that are about a machine, and end-to-end tests.
export UNIBODY_TEST_ENGINE=unibody
chmod 666 /dev/unibody
while [ "$1" != -- ]; do
    # Words are apart.
    # shellcheck disable=SC2086
    tests $1 || failed "a test of: $1"
    shift
done
shift
