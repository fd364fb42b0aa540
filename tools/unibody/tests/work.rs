//! Real work gives the same in a guest as on the host: the same BusyBox runs the same script in both.

mod support;

use std::process::Command;

use support::{finish, own_folder, pulled, shell, text};

/// What the script starts from.
fn input() -> Vec<u8> {
    (0..200_000_u32).flat_map(|n| (n.wrapping_mul(2_654_435_761) >> 7).to_le_bytes()).collect()
}

/// Hashes, compression, sorting, floating point, forks, files.
const SCRIPT: &str = r#"
set -e
cd "$(mktemp -d)"
cat > input
sha256sum < input
md5sum < input
gzip -c input > packed
gzip -dc packed | cmp - input && echo same
od -An -tu4 -v input | tr -s ' ' '\n' | head -20000 > numbers
sort -n numbers | sha256sum
sort -rn numbers | uniq | wc -l
awk 'NF { s += $1 / 3; p += s / ($1 + 1); q = q < $1 ? $1 : q }
     END { printf "%.6f %.9f %e %g\n", s, p, q, s / (p + 1000000) }' numbers
awk 'BEGIN { x = 0.1; for (i = 0; i < 20000; i++) x = 3.9 * x * (1 - x); printf "%.17g\n", x }'
awk 'BEGIN { x = 2; for (i = 0; i < 9; i++) { x = (x + 2 / x) / 2; printf "%.15g ", x }; print "" }'
awk 'BEGIN { for (i = 1; i < 40; i++) printf "%.15g %d ", i * i * i / 7, i * 1e17 / 3; print "" }'
i=0; n=0
while [ $i -lt 200 ]; do n=$((n + $(echo $i))); i=$((i + 1)); done
echo $n
for d in a b c; do mkdir $d; for f in 1 2 3; do echo $d$f > $d/$f; done; done
find . -type f | sort | xargs cat | sha256sum
tar -c a b c | tar -t | sort | tr '\n' ' '
echo "2 ^ 200" | bc
dd if=input bs=777 skip=3 count=50 2>/dev/null | sha1sum
sed -n 's/\([0-9]\)\([0-9]\)/\2\1/gp' numbers | head -5000 | md5sum
"#;

#[test]
fn a_script_of_real_work_gives_the_same_output_as_on_the_host() {
    let busybox = pulled().join("bin/busybox");
    // Applets come first in BusyBox's own shell, so the host runs what the guest runs.
    let mut host = Command::new(&busybox);
    host.args(["sh", "-c", SCRIPT]).env("TMPDIR", own_folder("work")).env("PATH", "");
    let expected = finish(host, &input());
    assert_eq!(expected.status.code(), Some(0), "{}", text(&expected.stderr));
    let guest = finish(shell(SCRIPT), &input());
    assert_eq!(guest.status.code(), Some(0), "{}", text(&guest.stderr));
    assert_eq!(text(&guest.stdout), text(&expected.stdout));
}

#[test]
fn many_processes_come_and_go() {
    let script = "i=0; while [ $i -lt 300 ]; do (exit 3) || true; i=$((i+1)); done; echo $i";
    let output = finish(shell(script), b"");
    assert_eq!(text(&output.stdout), "300\n");
}
