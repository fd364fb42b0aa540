
# Debian's QEMU, for which it is KVM.
mkdir -p /tmp/guest/bin /tmp/guest/proc
cp "$HOME"/.cache/unibody/current/bin/busybox /tmp/guest/bin
cat >/tmp/guest/init <<'END'
#!/bin/busybox sh
/bin/busybox echo "QEMU's guest runs: $(/bin/busybox uname -s)"
/bin/busybox reboot -f
END
chmod +x /tmp/guest/init
(cd /tmp/guest && find . | cpio -o -H newc 2>/dev/null) >/tmp/initrd
timeout -s KILL 120 qemu-system-x86_64 -machine microvm -accel kvm -cpu host -nodefaults -no-user-config -display none \
    -serial stdio -m 256 -no-reboot -kernel "$HOME"/.cache/unibody/current/boot/vmlinuz-* -initrd /tmp/initrd \
    -append 'console=ttyS0 reboot=t panic=-1' >/tmp/said 2>&1 || failed "QEMU ended with status $?: $(tail -n 5 /tmp/said)"
grep "QEMU's guest runs: Linux" /tmp/said || failed "QEMU's guest said: $(tail -n 5 /tmp/said)"
rmmod unibody || failed "the module is in use"

look_for_complaints
echo "$round rounds of guests with 1 and 2 processors, and of the module; $# of the kernel's tests of KVM; QEMU"
