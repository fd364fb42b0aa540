use std::os::unix::net::UnixStream;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use hv::Event;
use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::virtio::interrupt::Interrupt;
use crate::virtio::queue::Buffer;
use crate::virtio::queue::driver::{Driver, wait_for};
use crate::virtio::vhost_user::{Lost, Server};

/// A server that does nothing, and says of each thing that is done to it.
struct Idle(Mutex<Sender<String>>);

impl Server for Idle {
    fn end(&self) {
        self.0.lock().unwrap().send("end".into()).unwrap();
    }

    fn tell(&self, why: &Lost) {
        self.0.lock().unwrap().send(why.to_string()).unwrap();
    }
}

fn front_end() -> (Arc<FrontEnd>, UnixStream, Receiver<String>) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let (told, heard) = channel();
    let front_end = FrontEnd::new(ours, QUEUES as u64, Arc::new(Idle(Mutex::new(told)))).unwrap();
    (front_end, theirs, heard)
}

#[test]
fn its_configuration_is_its_tag() {
    let (front_end, _server, _heard) = front_end();
    let fs = Fs::new("a folder", front_end, false);
    let config = fs.config();
    assert_eq!((&config[..9], config.len()), (&b"a folder\0"[..], 40));
    assert_eq!(config[36..], [1, 0, 0, 0]);
    assert_eq!(fs.queue_sizes().len(), QUEUES);
}

#[test]
fn a_server_that_is_gone_is_ended_and_told_of_once() {
    let (front_end, server, heard) = front_end();
    drop(server);
    let next = || heard.recv_timeout(Duration::from_secs(20)).unwrap();
    assert_eq!([next(), next()], ["end", "its process has ended"]);
    assert!(front_end.greet().is_err());
    front_end.lose(&Lost::Unasked);
    assert!(heard.try_recv().is_err());
}

#[test]
fn one_that_is_not_needed_any_more_is_left_alone() {
    let (front_end, _server, heard) = front_end();
    drop(front_end);
    // Who watches it ends, and with it the last that could tell.
    assert!(heard.recv_timeout(Duration::from_secs(20)).is_err());
}

#[test]
fn without_a_server_requests_fail_and_what_wants_no_answer_gets_none() {
    let (front_end, server, _heard) = front_end();
    drop(server);
    let (fs, mut driver) = (Fs::new("x", front_end, true), Driver::new());
    let interrupt = Arc::new(Interrupt::new(QUEUES, Arc::new(|_| {}), Arc::new(|_| {})));
    let request =
        [&[40, 0, 0, 0, 1, 0, 0, 0][..], &0x1234_5678_9abc_def0_u64.to_le_bytes()].concat();
    driver.memory.write_slice(&request, GuestAddress(0x8000)).unwrap();
    let asked = [Buffer { address: 0x8000, size: 40 }];
    let room = [Buffer { address: 0x9000, size: 16 }, Buffer { address: 0xa000, size: 100 }];
    let first = driver.send(&asked, &room);
    let queues = vec![None, Some(driver.queue(Arc::clone(&interrupt)))];
    fs.activate(Active { queues, features: 0, interrupt });
    assert_eq!(wait_for(|| driver.take()), (first.into(), ANSWER));
    let answer: [u32; 4] = driver.memory.read_obj(GuestAddress(0x9000)).unwrap();
    assert_eq!(answer.map(u32::from_le), [16, EIO.cast_unsigned(), 0x9abc_def0, 0x1234_5678]);

    let second = driver.send(&asked, &[]);
    fs.notify(1);
    assert_eq!(wait_for(|| driver.take()), (second.into(), 0));
    fs.front_end.event().signal();
    fs.reset();
}
