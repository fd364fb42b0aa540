//! [`Ready`]: whose turn it is to send to the guest.

use std::collections::{HashSet, VecDeque};

/// What may have something for the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Source {
    /// A connection.
    Tcp(u64),
    /// A flow of datagrams.
    Udp(u64),
    /// Echoes.
    Ping(u64),
    /// A published port, which somebody may have connected to.
    Listener(u64),
}

impl Source {
    /// As a word, by which the host's kernel names it.
    pub fn token(self) -> u64 {
        let (kind, number) = match self {
            Self::Tcp(number) => (0, number),
            Self::Udp(number) => (1, number),
            Self::Ping(number) => (2, number),
            Self::Listener(number) => (3, number),
        };
        number << 2 | kind
    }

    /// The other way.
    pub fn of(token: u64) -> Self {
        let number = token >> 2;
        match token & 3 {
            0 => Self::Tcp(number),
            1 => Self::Udp(number),
            2 => Self::Ping(number),
            _ => Self::Listener(number),
        }
    }
}

/// A queue in which each stands but once, so that nobody has to wait for more than one frame of each other.
#[derive(Debug, Default)]
pub struct Ready {
    queue: VecDeque<Source>,
    members: HashSet<Source>,
}

impl Ready {
    /// Puts one at the end, unless it is there.
    pub fn push(&mut self, source: Source) {
        if self.members.insert(source) {
            self.queue.push_back(source);
        }
    }

    /// Whose turn it is.
    pub fn pop(&mut self) -> Option<Source> {
        let first = self.queue.pop_front()?;
        self.members.remove(&first);
        Some(first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_its_turn_once() {
        let mut ready = Ready::default();
        for source in [Source::Tcp(1), Source::Udp(1), Source::Tcp(1), Source::Listener(0)] {
            ready.push(source);
        }
        assert_eq!(ready.pop(), Some(Source::Tcp(1)));
        ready.push(Source::Tcp(1));
        let rest = std::iter::from_fn(|| ready.pop()).collect::<Vec<_>>();
        assert_eq!(rest, [Source::Udp(1), Source::Listener(0), Source::Tcp(1)]);
    }

    #[test]
    fn words_name_sources() {
        for source in [Source::Tcp(5), Source::Udp(0), Source::Ping(1 << 40), Source::Listener(3)] {
            assert_eq!(Source::of(source.token()), source);
        }
    }
}
