
# Beside kvm_amd: who has a VM first has the processor. What has one holds it without a guest.
for module in /nest/modules/*; do
    insmod "$module" || failed "$module is not loaded beside the module"
done
kvm() {
    exec qemu-system-x86_64 -machine none -accel kvm -nodefaults -no-user-config -display none -S
}
# Waits until a process has a VM.
has_vm() {
    until ls -l /proc/"$1"/fd 2>/dev/null | grep -q anon_inode:kvm-vm; do
        kill -0 "$1" 2>/dev/null || failed "who was to have a VM has ended"
        sleep 0.05
    done
}
# Ends a process, and waits until a module is nobody's any more.
end_of() {
    kill -KILL "$1"
    wait "$1"
    tries=0
    until [ "$(cat /sys/module/"$2"/refcnt)" = 0 ]; do
        tries=$((tries + 1))
        [ $tries -lt 100 ] || failed "$2 is in use, though nobody is there"
        sleep 0.05
    done
}
# refused STATUS WORDS…: what it comes to that /tmp/said is of.
refused() {
    [ "$1" = 125 ] || failed "a VM beside another hypervisor's ended with status $1: $(cat /tmp/said)"
    grep -q "cannot make a virtual machine on $2: another hypervisor has the processor, as $3 " /tmp/said ||
        failed "it is not told why there is no VM: $(cat /tmp/said)"
}
chmod 666 /dev/unibody
kvm &
holder=$!
has_vm $holder
guest -- true >/tmp/said 2>&1
refused $? unibody "Linux's KVM"
cat /tmp/said
dmesg | grep "unibody: processor 0 is another hypervisor's" || failed "the kernel's log does not tell who has the processor"
unibody doctor >/tmp/said
grep -A 8 '^Module$' /tmp/said
grep -q '^  kvm_amd  *loaded, and in use: ' /tmp/said || failed "the doctor does not see who has the processor"
end_of $holder kvm_amd
guest -- true || failed "a guest after kvm_amd's ended with status $?"
become_guest -- sleep 1000 &
holder=$!
has_vm $holder
(kvm) >/tmp/said 2>&1 &
other=$!
while kill -0 $other 2>/dev/null; do
    ls -l /proc/$other/fd 2>/dev/null | grep anon_inode:kvm-vm && failed "kvm_amd has a VM beside the module's"
    sleep 0.05
done
grep -q 'KVM_CREATE_VM.*busy' /tmp/said || failed "QEMU said: $(cat /tmp/said)"
unibody run --root none --engine kvm -- true >/tmp/said 2>&1
refused $? kvm "Unibody's module"
cat /tmp/said
end_of $holder unibody
kvm &
holder=$!
has_vm $holder
end_of $holder kvm_amd
rmmod kvm_amd kvm || failed "kvm_amd is in use"
