
# The kernel's tests of KVM, which find the module as any VMM does. Arguments: calls, each a limit in seconds, a program and its parameters.
rmmod unibody || failed "the module is in use"
insmod /nest/unibody.ko device=kvm || failed "the module is not loaded as /dev/kvm"
for call in "$@"; do
    # Words are apart.
    # shellcheck disable=SC2086
    timeout -s KILL $call >/tmp/said 2>&1 || {
        cat /tmp/said
        failed "$call"
    }
done
