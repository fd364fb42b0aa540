
# The guests of the tests that are about a machine.
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
