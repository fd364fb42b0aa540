# What `cargo xtask bench module` runs where the project's own module is loaded: see xtask/src/bench/module.rs.

# In hundredths of a second.
clock() {
    sed 's/^\([0-9]*\)\.\([0-9]*\) .*/\1\2/' /proc/uptime
}

# measure ENGINE DEVICE FILE
measure() {
    exits "$2" >"$3" || exit 1
    ipi "$2" >>"$3" || exit 1
    unibody run --quiet --root none --engine "$1" --memory 256M -- true || exit 1
    start=$(clock)
    unibody run --quiet --root none --engine "$1" --memory 256M -- true || exit 1
    printf 'a kernel, to its end, in ms\t%s\n' $((($(clock) - start) * 10)) >>"$3"
}

measure unibody /dev/unibody /tmp/unibody
rmmod unibody || exit 1
for module in /nest/modules/*; do
    insmod "$module" || exit 1
done
measure kvm /dev/kvm /tmp/kvm

echo 'what (asked: 1.1) | unibody ns | kvm_amd ns | unibody/kvm_amd'
awk -F '\t' '
    NR == FNR { ours[$1] = $2; next }
    { printf "%s | %s | %s | %.2f\n", $1, ours[$1], $2, ours[$1] / $2 }
' /tmp/unibody /tmp/kvm
