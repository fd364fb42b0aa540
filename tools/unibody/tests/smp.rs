//! A stock kernel on several processors: each works, they interrupt each other, see each other's changes of memory,
//! agree about the time, and come and go.

mod support;

use std::path::PathBuf;
use std::sync::OnceLock;

use support::{engine, finish, pulled, run, shelf, text, unibody};
use userland::own;

/// The file system that the guests have.
fn archive() -> PathBuf {
    static ARCHIVE: OnceLock<PathBuf> = OnceLock::new();
    let build = || own::build(&shelf(), &pulled().join("bin/busybox"));
    ARCHIVE.get_or_init(|| build().expect("it can be built").archive).clone()
}

/// Runs a shell script on so many processors and gives what it prints. It must succeed.
fn on(cpus: u32, script: &str) -> String {
    by(&run(), cpus, script)
}

/// The same by `run` with other options.
fn by(run: &[&str], cpus: u32, script: &str) -> String {
    let mut command = unibody();
    command.args(run).args(["--cpus", &cpus.to_string()]);
    command.arg("--initrd").arg(archive()).args(["--", "sh", "-ec", script]);
    let output = finish(command, b"");
    let stdout = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{stdout}{}", text(&output.stderr));
    stdout
}

/// The number behind a word of the output.
fn number(output: &str, name: &str) -> u64 {
    let mut words = output.split_whitespace();
    let found = words.find(|word| *word == name).and_then(|_| words.next()?.parse().ok());
    found.unwrap_or_else(|| panic!("no number '{name}': {output}"))
}

const ROUNDS: u32 = 3000;
/// The same, where there has to be time for something else meanwhile.
const MANY_ROUNDS: u32 = 12_000;

/// What each process of [`COUNT`] has to come to.
fn sum(rounds: u32) -> u32 {
    (0..rounds).fold(1, |sum, round| (sum * 31 + round) & 0xff_ffff)
}

/// A script `/tmp/count`: computes, and writes on which processor it has run, and the result.
const COUNT: &str = "\
    cat >/tmp/count <<'END'\n\
    n=0 sum=1\n\
    while [ $n -lt $2 ]; do sum=$(((sum * 31 + n) & 0xffffff)); n=$((n + 1)); done\n\
    read all </proc/self/stat\n\
    name=$1\n\
    set -- $all\n\
    echo ${39} $sum >/tmp/result-$name\n\
    END\n";

fn all_work(run: &[&str], cpus: u32) {
    let script = format!(
        "{COUNT}nproc; grep -c ^processor /proc/cpuinfo\n\
         n=0\n\
         while [ $n -lt {cpus} ]; do taskset -c $n sh /tmp/count $n {ROUNDS} & n=$((n + 1)); done\n\
         wait\n\
         cat /tmp/result-*\n"
    );
    let each = (0..cpus).map(|cpu| format!("{cpu} {}\n", sum(ROUNDS))).collect::<String>();
    assert_eq!(by(run, cpus, &script), format!("{cpus}\n{cpus}\n{each}"));
}

#[test]
fn one_processor_works() {
    all_work(&run(), 1);
}

#[test]
fn two_processors_work() {
    all_work(&run(), 2);
}

#[test]
fn four_processors_work() {
    all_work(&run(), 4);
}

#[test]
fn eight_processors_work() {
    all_work(&run(), 8);
}

#[test]
fn a_process_that_is_moved_about_computes_what_it_would_in_one_place() {
    // Each of them is sent from processor to processor until it is done.
    let script = format!(
        "{COUNT}\
         move() {{\n\
         while kill -0 $1 2>/dev/null; do\n\
         for to in 0 1 2 3; do taskset -pc $to $1 >/dev/null 2>&1 && moved=$((moved + 1)) || true; done\n\
         done\n\
         }}\n\
         moved=0\n\
         for n in 0 1; do sh /tmp/count $n {MANY_ROUNDS} & eval pid$n=$!; done\n\
         move $pid0; move $pid1\n\
         wait\n\
         cut -d' ' -f2 /tmp/result-*\n\
         echo moved $moved\n"
    );
    let output = on(4, &script);
    let results: Vec<&str> = output.lines().take(2).collect();
    assert_eq!(results, [(); 2].map(|()| sum(MANY_ROUNDS).to_string()));
    assert!(number(&output, "moved") > 8, "{output}");
}

/// Prints how often processors have interrupted each other to drop translations, and to call functions.
const INTERRUPTS: &str = "\
    interrupts() {\n\
    awk -v name=$1 '$1 == \"TLB:\" || $1 == \"CAL:\" {\n\
    sum = 0; for (i = 2; i <= 5; i++) sum += $i; print $1 name, sum }' /proc/interrupts\n\
    }\n";

fn changes_are_seen(run: &[&str], cpus: u32, rounds: u64) {
    let script = format!(
        "{INTERRUPTS}interrupts before\n\
         shootdowns {rounds}\n\
         interrupts after\n"
    );
    let output = by(run, cpus, &script);
    assert_eq!(number(&output, "rounds"), rounds);
    assert_eq!(number(&output, "stale"), 0);
    // All but the one that changes, each time, and once at first.
    assert_eq!(number(&output, "reads"), (rounds + 1) * u64::from(cpus - 1));
    let more = |name: &str| {
        number(&output, &format!("{name}after")) - number(&output, &format!("{name}before"))
    };
    // On KVM a guest leaves it to the host to drop those of a processor that does not run.
    let by_interrupts = run.contains(&"soft");
    assert!(!by_interrupts || more("TLB:") + more("CAL:") >= rounds, "{output}");
}

#[test]
fn changes_of_memory_and_code_are_seen_by_two_processors() {
    changes_are_seen(&run(), 2, 300);
}

#[test]
fn changes_of_memory_and_code_are_seen_by_four_processors() {
    // Whoever waits for all others waits for the host's processors, too.
    changes_are_seen(&run(), 4, 60);
}

/// Time goes on, whichever processor reads it, for many exchanges or seconds.
fn time_goes_on(run: &[&str], cpus: u32) {
    let script =
        "cat /sys/devices/system/clocksource/clocksource0/current_clocksource; clocks 3 300000";
    let output = by(run, cpus, script);
    // Those that cost no exit. KVM's is there for processors whose counters may change.
    let fast: &[&str] = if engine() == "soft" { &["tsc"] } else { &["tsc", "kvm-clock"] };
    assert!(output.lines().next().is_some_and(|name| fast.contains(&name)), "{output}");
    assert_eq!((number(&output, "backward"), number(&output, "missed")), (0, 0));
    // Where there are not as many processors they wait for each other, until the host's scheduler takes the next.
    let on_the_host = std::thread::available_parallelism().expect("it is known").get();
    let least = if on_the_host < cpus as usize { 100 } else { 1000 };
    assert!(number(&output, "exchanges") >= least, "{output}");
}

#[test]
fn time_goes_on_from_one_processor_to_the_other() {
    time_goes_on(&run(), 2);
}

#[test]
fn time_goes_on_over_more_processors_than_the_host_may_have() {
    time_goes_on(&run(), 4);
}

#[test]
fn a_processor_goes_and_comes_again() {
    let script = format!(
        "{COUNT}cd /sys/devices/system/cpu\n\
         for round in 1 2 3; do\n\
         echo 0 >cpu1/online; nproc; cat online\n\
         echo 1 >cpu1/online; nproc; cat online\n\
         taskset -c 1 sh /tmp/count $round {ROUNDS}\n\
         done\n\
         cat /tmp/result-*\n\
         dmesg | grep -c 'CPU 1 is now offline'\n"
    );
    let round = "2\n0,2\n3\n0-2\n";
    let results = format!("1 {}\n", sum(ROUNDS)).repeat(3);
    assert_eq!(on(3, &script), format!("{}{results}3\n", round.repeat(3)));
}

/// The interpreter alone.
mod soft {
    use super::{all_work, changes_are_seen};

    const INTERPRETED: [&str; 6] = ["run", "--root", "none", "--engine", "soft", "--no-jit"];

    #[test]
    fn two_processors_work() {
        all_work(&INTERPRETED, 2);
    }

    #[test]
    fn changes_of_memory_and_code_are_seen() {
        changes_are_seen(&INTERPRETED, 2, 300);
    }

    #[test]
    fn time_goes_on() {
        super::time_goes_on(&INTERPRETED, 2);
    }
}
