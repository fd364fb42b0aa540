
# What `cargo xtask check nest` runs where the project's own module is loaded: see xtask/src/nest/own_module.rs. Arguments: how often; how many
# seconds the fuzz target has, the folder that it is in, and how long its inputs are; calls of programs of tests, and `--`; calls of the kernel's
# tests, each a limit in seconds, a program and its parameters.

# What the kernel holds and cannot take back, in KiB.
held() {
    sed -n 's/^SUnreclaim: *\([0-9]*\) kB$/\1/p' /proc/meminfo
}

# As an ordinary user, who was let. Takes the shell's place: in the background, what is killed is the guest's process.
become_guest() {
    exec /bin/setpriv --reuid=65534 --regid=65534 --clear-groups env HOME=/tmp XDG_CACHE_HOME=/tmp/cache \
        unibody run --root none --engine unibody --memory 256M "$@"
}

# In a shell of its own.
guest() (
    become_guest "$@"
)

rounds=$1
seconds=$2
target=$3
max_len=$4
shift 4
