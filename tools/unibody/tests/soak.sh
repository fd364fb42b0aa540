# What runs in the guest of soak.rs: soak.sh ROUNDS SECONDS LOAD...
# Prints what each part came to, and the kernel's messages on stderr.

floats() {
	rounds=0
	until [ -e /tmp/over ]; do
		/floating 6 "$1" >>/tmp/floats || { echo "floats failed $? in round $rounds" && return 1; }
		rounds=$((rounds + 1))
	done
	echo floats $rounds
}

modules() {
	times=0
	until [ -e /tmp/over ]; do
		insmod /dummy.ko
		insmod /xor.ko
		test -e /sys/class/net/dummy0
		rmmod dummy
		rmmod xor
		times=$((times + 1))
	done
	echo modules $times
}

storm() {
	n=0 sum=0
	while [ $n -lt 200 ]; do
		(exit $((n % 100))) || sum=$((sum + $?))
		n=$((n + 1))
	done
	echo storm $sum
}

pipes() {
	seq 50000 | cat | cat | sed 's/$/ x/' | cat | grep -v y | tr x z | sha256sum
}

rounds=$1 seconds=$2
shift 2
floats "$rounds" &
floats=$!
modules &
modules=$!
for load in "$@"; do
	# shellcheck disable=SC2086
	if stress-ng --verify --timeout "$seconds" --quiet $load; then
		echo "done $load"
	else
		echo "failed $? $load"
	fi
done
storm &
storm &
pipes &
pipes
echo >/tmp/over
wait $floats || echo "floats ended with $?"
wait $modules || echo "modules ended with $?"
wait
/shootdowns 30
/clocks 2 100000
sort /tmp/floats | uniq -c
dmesg >&2
