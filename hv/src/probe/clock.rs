//! What tells the probe the time: [`Clock`]. The host's is [`HostClock`]; tests have others, since a machine that runs tests has
//! much else to do.

use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use super::run::Event;

/// A clock, and waiting by it.
pub(super) trait Clock: Send + 'static {
    /// The time since some moment.
    fn now(&self) -> Duration;

    /// The next of `events`, if there is one by the time `until`.
    ///
    /// # Errors
    /// As [`Receiver::recv_timeout`].
    fn wait(&self, events: &Receiver<Event>, until: Duration) -> Result<Event, RecvTimeoutError>;
}

/// The host's clock.
#[derive(Clone, Copy, Debug)]
pub(super) struct HostClock(Instant);

impl HostClock {
    /// One that counts from now on.
    pub fn start() -> Self {
        Self(Instant::now())
    }
}

impl Clock for HostClock {
    fn now(&self) -> Duration {
        self.0.elapsed()
    }

    fn wait(&self, events: &Receiver<Event>, until: Duration) -> Result<Event, RecvTimeoutError> {
        events.recv_timeout(until.saturating_sub(self.now()))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn the_hosts_clock_waits_until_then_and_not_for_what_can_not_come() {
        let (clock, (sender, events)) = (HostClock::start(), mpsc::channel());
        let until = clock.now() + Duration::from_millis(2);
        assert!(matches!(clock.wait(&events, until), Err(RecvTimeoutError::Timeout)));
        assert!(clock.now() >= until);
        sender.send(Event::Begins).unwrap();
        assert!(matches!(clock.wait(&events, until), Ok(Event::Begins)), "it is there");
        drop(sender);
        let until = clock.now() + Duration::from_secs(100);
        assert!(matches!(clock.wait(&events, until), Err(RecvTimeoutError::Disconnected)));
    }
}
