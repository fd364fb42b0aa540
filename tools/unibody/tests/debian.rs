//! Debian's programs in a guest: a compiler, an interpreter with its own tests, a library of ciphers.
//!
//! The packages are unpacked into an initial file system that is a third of a gigabyte. What `cargo xtask
//! soak` runs more of: with `UNIBODY_LONG` set, all of Python's tests that are meant.

mod support;

use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use support::{finish_within, shelf, text, unibody};
use userland::debian::{self, Root};

/// Unpacking the file system alone takes some of it.
const LIMIT: Duration = Duration::from_secs(300);
const LONG_LIMIT: Duration = Duration::from_secs(1500);

/// Python's tests of its own that run each time.
const TESTS: [&str; 2] = ["test_re", "test_struct"];
/// All that are meant.
const ALL_TESTS: [&str; 5] = ["test_math", "test_struct", "test_json", "test_re", "test_threading"];

fn programs() -> Root {
    debian::programs(&shelf()).expect("packages can be had and unpacked")
}

/// Runs a shell script in a guest that has Debian's programs.
fn in_guest(root: &Root, script: &str, input: &[u8], limit: Duration) -> Output {
    let mut command = unibody();
    command
        .args(support::run())
        .args(["--cpus", "2", "--memory", "3G", "--initrd"])
        .arg(&root.archive);
    command.args(["--", "/bin/sh", "-ec", script]);
    finish_within(limit, command, input)
}

/// What a program prints on the host, compiled by the host's own compiler.
fn on_the_host(source: &Path, options: &[&str]) -> String {
    let program = source.with_extension("host");
    let mut gcc = Command::new("gcc");
    gcc.args(options).arg("-o").arg(&program).arg(source).arg("-lm");
    let status = gcc.status().expect("there is a compiler: `cargo xtask setup` installs one");
    assert!(status.success(), "{gcc:?}");
    text(&finish_within(LIMIT, Command::new(&program), b"").stdout)
}

/// Integers, floating point, vectors, calls through pointers, memory.
const PROGRAM: &str = r#"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static double field[4096], other[4096];
static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}
static unsigned long ackermann(unsigned long m, unsigned long n) {
    return m == 0 ? n + 1 : ackermann(m - 1, n == 0 ? 1 : ackermann(m, n - 1));
}
int main(void) {
    unsigned seed = 1;
    for (int i = 0; i < 4096; i++) {
        seed = seed * 1664525 + 1013904223;
        field[i] = seed / 65536.0;
        other[i] = sqrt(field[i]) * 3;
    }
    double sum = 0, product = 0;
    float floats[256];
    for (int i = 0; i < 4096; i++) { sum += field[i] / 7; product += field[i] * other[i]; }
    for (int i = 0; i < 256; i++) floats[i] = field[i] * 1e-3f + other[i];
    qsort(field, 4096, sizeof *field, by_value);
    char *text = malloc(100000);
    size_t length = 0;
    for (int i = 0; i < 4096; i += 64) length += sprintf(text + length, "%.17g %a ", field[i], floats[i / 16]);
    unsigned hash = 5381;
    for (size_t i = 0; i < length; i++) hash = hash * 33 ^ (unsigned char)text[i];
    long double wide = 1;
    for (int i = 1; i < 30; i++) wide *= i / 3.0L;
    printf("%.17g %.17g %u %zu\n", sum, product, hash, strlen(text));
    printf("%lu %.20Lg %d\n", ackermann(2, 300), wide, memcmp(text, text + 1, 9) > 0);
    printf("%.15g %.15g\n", pow(sum, 0.1), exp(-product / 1e12) + sin(sum));
    free(text);
    return 42;
}
"#;

#[test]
fn gcc_compiles_and_the_program_prints_what_it_does_on_the_host() {
    let root = programs();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let source = folder.path().join("program.c");
    std::fs::write(&source, PROGRAM).expect("it is ours");
    // The same instructions on both; how sums are put into vectors changes their last digits.
    let options = ["-O2", "-ftree-vectorize", "-ffp-contract=off"];
    let expected = on_the_host(&source, &options);
    assert_eq!(expected.lines().count(), 3, "{expected}");
    let script = format!(
        "cd /tmp; cat >program.c; gcc {} -o program program.c -lm; ./program || echo $?",
        options.join(" ")
    );
    let output = in_guest(&root, &script, PROGRAM.as_bytes(), LIMIT);
    assert_eq!(text(&output.stdout), format!("{expected}42\n"), "{}", text(&output.stderr));
}

/// Known answers: what is hashed or encrypted, how, and the result.
const VECTORS: [(&str, &str); 6] = [
    // FIPS 180-2, appendix B.1; RFC 1321, A.5.
    (
        "printf abc | openssl sha256 -r",
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad *stdin",
    ),
    ("printf abc | openssl sha1 -r", "a9993e364706816aba3e25717850c26c9cd0d89d *stdin"),
    ("printf abc | openssl md5 -r", "900150983cd24fb0d6963f7d28e17f72 *stdin"),
    // NIST SP 800-38A, F.2.5: the first two blocks of CBC with AES-256.
    (
        "unhex 6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51 | openssl enc -aes-256-cbc -nopad \
         -K 603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4 -iv 000102030405060708090a0b0c0d0e0f | hex",
        "f58c4c04d6e5f1ba779eabfb5f7bfbd69cfc4e967edb808d679f777bc6702c7d",
    ),
    // RFC 8439, A.1, test vector 1: ChaCha20's key stream of nothing but zeros.
    (
        "head -c 64 /dev/zero | openssl enc -chacha20 -K $(head -c 32 /dev/zero | hex) -iv $(head -c 16 /dev/zero | hex) | hex",
        "76b8e0ada0f13d90405d6ae55386bd28bdd219b8a08ded1aa836efcc8b770dc7da41597c5157488d7724e03fb8d84a376a43b8f41518a11cc387b669b2ee6586",
    ),
    // RFC 4231, test case 2.
    (
        "printf 'what do ya want for nothing?' | openssl sha256 -r -hmac Jefe",
        "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843 *stdin",
    ),
];

#[test]
fn openssl_gives_the_known_answers() {
    let mut script = String::from(
        "hex() { od -An -v -tx1 | tr -d ' \\n'; echo; }\n\
         unhex() { python3 -c \"import sys; sys.stdout.buffer.write(bytes.fromhex('$1'))\"; }\n",
    );
    for (command, _) in VECTORS {
        script.push_str(command);
        script.push('\n');
    }
    let output = in_guest(&programs(), &script, b"", LIMIT);
    let answers: Vec<&str> = VECTORS.iter().map(|(_, answer)| *answer).collect();
    assert_eq!(
        text(&output.stdout).lines().collect::<Vec<_>>(),
        answers,
        "{}",
        text(&output.stderr)
    );
}

/// Runs tests of Python's own by the interpreter `python`, and prints of each file how many tests ran, and how
/// many of those were skipped; all that it printed if one failed.
fn script(python: &str, tests: &[&str]) -> String {
    format!(
        "cd \"$(mktemp -d)\"\n\
         for test in {}; do\n\
         echo $test\n\
         {python} -m test -v $test >log 2>&1 || cat log\n\
         sed -n '/^Ran /s/ in .*//p; /^OK/p; /^FAILED/p' log\n\
         done\n",
        tests.join(" ")
    )
}

#[test]
fn pythons_own_tests_pass_as_on_the_host() {
    let root = programs();
    let (tests, limit) = match std::env::var_os("UNIBODY_LONG") {
        Some(_) => (&ALL_TESTS[..], LONG_LIMIT),
        None => (&TESTS[..], LIMIT),
    };
    let output = in_guest(&root, &script("python3", tests), b"", limit);
    let guest = text(&output.stdout);
    println!("{guest}{}", text(&output.stderr));
    // The same files on the host, with their own C library.
    let libraries = root.folder.join("usr/lib/x86_64-linux-gnu");
    let loader = libraries.join("ld-linux-x86-64.so.2");
    let python = root.folder.join("usr/bin/python3");
    let python = [loader.as_path(), Path::new("--library-path"), &libraries, &python];
    let python = python.map(|word| word.to_string_lossy().into_owned()).join(" ");
    let mut host = Command::new("sh");
    host.args(["-ec", &script(&python, tests)]).env("PYTHONHOME", root.folder.join("usr"));
    let host = text(&finish_within(limit, host, b"").stdout);
    assert_eq!(host.matches("\nOK").count(), tests.len(), "on the host: {host}");
    assert_eq!(guest, host);
}
