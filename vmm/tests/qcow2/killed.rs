//! An image is whole whenever the process that writes to it ends: one is stopped at many points, as a kill would have ended it there, and
//! what is in the file then is looked at.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use proptest::prelude::Rng;
use proptest::test_runner::{RngAlgorithm, TestRng};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
use vm_memory::VolatileSlice;
use vmm::disk::{Disk, Format, Options, SECTOR};

/// Names the image to the process that writes to it.
const IMAGE: &str = "UNIBODY_TEST_WRITES_TO";

/// Threads that write, each to a part of the disk of its own, as queues do.
const THREADS: u64 = 3;
const PART: u64 = 32 << 20;

/// How often the process is stopped, unless `UNIBODY_LONG` is set.
const STOPS: u32 = 100;
const MANY_STOPS: u32 = 2000;

/// Where a thread's record of a number is: nowhere near the one before.
fn place(thread: u64, number: u64) -> u64 {
    thread * PART + number.wrapping_mul(0x9e37_79b9_7f4a_7c15) % 4096 * (PART / 8192)
}

/// What is in it.
fn record(thread: u64, number: u64) -> Vec<u8> {
    let words = [thread + 1, number];
    words.iter().cycle().take(64).flat_map(|word| word.to_le_bytes()).collect()
}

/// Not a test by itself: what the process does that is stopped. Ends with its parent.
#[test]
fn writes_until_it_is_killed() {
    let Some(path) = std::env::var_os(IMAGE) else { return };
    let disk = Disk::open(&options(Path::new(&path), false)).unwrap();
    let told = Mutex::new(std::io::stdout());
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (disk, told) = (&disk, &told);
            scope.spawn(move || write_records(disk, thread, told));
        }
    });
}

fn write_records(disk: &Disk, thread: u64, told: &Mutex<std::io::Stdout>) {
    for number in 0.. {
        let mut bytes = record(thread, number);
        disk.write(&[VolatileSlice::from(&mut bytes[..])], place(thread, number)).unwrap();
        // In the half of the part without records something comes and goes.
        let other = thread * PART + PART / 2 + number % 61 * 0x3_8000;
        match number % 5 {
            0 => disk.discard(other, 65536).unwrap(),
            1 => disk.write_zeroes(other, 4096).unwrap(),
            _ => {
                let mut many = vec![3; 49152];
                disk.write(&[VolatileSlice::from(&mut many[..])], other).unwrap();
            }
        }
        if number % 4 == 3 {
            disk.flush().unwrap();
            let mut told = told.lock().unwrap();
            if writeln!(told, "{thread} {number}").and_then(|()| told.flush()).is_err() {
                return;
            }
        }
    }
}

fn options(path: &Path, read_only: bool) -> Options {
    let (format, path) = (Some(Format::Qcow2), path.to_path_buf());
    Options { path, format, read_only, ephemeral: false, direct: false }
}

/// The process that writes, and the lines that it says.
struct Writer {
    child: Child,
    lines: Receiver<String>,
}

impl Writer {
    fn start(image: &Path) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        let name = concat!(module_path!(), "::writes_until_it_is_killed");
        let (_, name) = name.split_once("::").unwrap();
        command.args([name, "--exact", "--nocapture"]).env(IMAGE, image);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let lines = lines(child.stdout.take().unwrap());
        Self { child, lines }
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Has it stand still.
    fn stop(&self) {
        self.signal(Signal::STOP);
        let pid = Pid::from_child(&self.child);
        let (_, status) = waitpid(Some(pid), WaitOptions::UNTRACED).unwrap().unwrap();
        assert!(status.stopped(), "it has ended: {status:?}");
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn lines(from: ChildStdout) -> Receiver<String> {
    let (send, receive) = channel();
    std::thread::spawn(move || {
        BufReader::new(from).lines().map_while(Result::ok).try_for_each(|line| send.send(line))
    });
    receive
}

/// The last number that each thread has said.
#[derive(Default)]
struct Flushed([Option<u64>; THREADS as usize]);

impl Flushed {
    /// Of lines of others nothing is taken.
    fn hear(&mut self, line: &str) {
        let mut words = line.split(' ').map(str::parse::<u64>);
        if let (Some(Ok(thread)), Some(Ok(number))) = (words.next(), words.next()) {
            self.0[thread as usize] = Some(number);
        }
    }

    /// Looks for what was flushed: the last that is at a place, or one that came after it.
    fn check(&self, disk: &Disk) {
        for (thread, last) in (0..).zip(&self.0) {
            let Some(last) = last else { continue };
            for number in 0..=*last {
                let mut found = vec![0; SECTOR as usize];
                disk.read(&[VolatileSlice::from(&mut found[..])], place(thread, number)).unwrap();
                let there = u64::from_le_bytes(found[8..16].try_into().unwrap());
                let is_it = there >= number && place(thread, there) == place(thread, number);
                assert!(is_it && found == record(thread, there), "{thread}: {number} of {last}");
            }
        }
    }
}

/// Whether qemu-img finds no worse than clusters that are counted and not used: 3 says that. See: qemu-img(1), "check".
fn is_whole(image: &Path) -> Result<(), String> {
    let mut check = Command::new("qemu-img");
    let output = check.args(["check", "-f", "qcow2"]).arg(image).output().unwrap();
    match output.status.code() {
        Some(0 | 3) => Ok(()),
        _ => Err(String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()),
    }
}

fn create(folder: &Path, options: &str) -> PathBuf {
    let image = folder.join("image.qcow2");
    let size = (THREADS * PART).to_string();
    let mut command = Command::new("qemu-img");
    command.args(["create", "-q", "-f", "qcow2", "-o", options]).arg(&image).arg(size);
    assert!(command.status().expect("it is installed").success());
    image
}

/// Stops a writer so often, a fraction of a millisecond or some after each other.
fn is_whole_at(stops: u32, options_of: &str) {
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("copy.qcow2");
    let mut random = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let mut done = 0;
    while done < stops {
        let image = create(folder.path(), options_of);
        let writer = Writer::start(&image);
        let mut flushed = Flushed::default();
        // Another image now and then: it is as interesting to fill one as to have one that is full.
        for _ in 0..20.min(stops - done) {
            std::thread::sleep(Duration::from_micros(u64::from(random.next_u32() % 6000)));
            writer.stop();
            fs::copy(&image, &copy).unwrap();
            // What it has said before is in the pipe: so much is on the disk at least.
            while let Ok(line) = writer.lines.try_recv() {
                flushed.hear(&line);
            }
            if let Err(told) = is_whole(&copy) {
                panic!("{options_of}, stop {done}: {told}");
            }
            if fs::metadata(&copy).unwrap().len() > 0 {
                flushed.check(&Disk::open(&options(&copy, true)).unwrap());
            }
            writer.signal(Signal::CONT);
            done += 1;
        }
        let start = Instant::now();
        while flushed.0.iter().any(Option::is_none) && start.elapsed() < Duration::from_secs(60) {
            flushed.hear(&writer.lines.recv_timeout(Duration::from_secs(60)).unwrap());
        }
        drop(writer);
        // It was killed: the next writer finds all, and goes on.
        flushed.check(&Disk::open(&options(&image, false)).unwrap());
        is_whole(&image).unwrap();
        fs::remove_file(&image).unwrap();
    }
}

fn stops() -> u32 {
    if std::env::var_os("UNIBODY_LONG").is_some() { MANY_STOPS } else { STOPS }
}

#[test]
fn an_image_is_whole_whenever_its_writer_is_killed() {
    is_whole_at(stops(), "cluster_size=4k");
}

#[test]
fn an_image_of_small_clusters_is_whole_whenever_its_writer_is_killed() {
    is_whole_at(stops(), "cluster_size=512");
}
