
failed() {
    echo "failed: $*"
    exit 1
}

# Whether the kernel had something to complain of.
look_for_complaints() {
    dmesg | grep -E 'WARNING:|BUG:|Oops|leak' && failed "the kernel complains"
}
