//! [`Ports`]: from which ports programs on the host come, as the guest sees them: all of them are with the router.

/// The first. See: RFC 6335, 6.
const FIRST: u16 = 49_152;

/// Takes them in order, so that one that was used is not used again soon.
pub struct Ports {
    next: u16,
}

impl Ports {
    /// None is taken yet.
    pub fn new() -> Self {
        Self { next: FIRST }
    }

    /// The next one that is free, if there is one.
    pub fn take(&mut self, mut is_used: impl FnMut(u16) -> bool) -> Option<u16> {
        for _ in FIRST..=u16::MAX {
            let port = self.next;
            self.next = port.checked_add(1).unwrap_or(FIRST);
            if !is_used(port) {
                return Some(port);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_taken_in_its_turn_if_it_is_free() {
        let mut ports = Ports::new();
        assert_eq!(ports.take(|port| port == FIRST), Some(FIRST + 1));
        assert_eq!(ports.take(|_| false), Some(FIRST + 2));
        assert_eq!(ports.take(|port| port != u16::MAX), Some(u16::MAX));
        assert_eq!(ports.take(|_| false), Some(FIRST));
        assert_eq!(ports.take(|_| true), None);
    }
}
