//! Which messages have reached whom: one bit for each that is to come, so that what comes twice cannot stand for what is lost. Pure.

use anyhow::{Result, ensure};

/// More than this many at once is no measurement: 512 MiB of bits.
const EXPECTED_MAX: u64 = 1 << 32;

/// So many messages to each of so many receivers, all known by number.
pub(crate) struct Ledger {
    bits: Vec<u64>,
    /// To each receiver.
    messages: u64,
    receivers: u64,
    came: u64,
    again: u64,
    strange: u64,
}

impl Ledger {
    /// Nothing has come yet.
    ///
    /// # Errors
    /// When these are more than 2^32.
    pub(crate) fn new(receivers: u64, messages: u64) -> Result<Self> {
        let expected = receivers.checked_mul(messages).filter(|expected| *expected <= EXPECTED_MAX);
        ensure!(expected.is_some(), "{messages} messages to each of {receivers} are more than 2^32: measure shorter");
        let words = usize::try_from(expected.unwrap_or_default().div_ceil(64))?;
        Ok(Self { bits: vec![0; words], messages, receivers, came: 0, again: 0, strange: 0 })
    }

    /// A message reached a receiver; one that nobody expects is counted apart.
    pub(crate) fn enter(&mut self, receiver: u64, message: u64) {
        if receiver >= self.receivers || message >= self.messages {
            self.strange += 1;
            return;
        }
        let place = receiver * self.messages + message;
        let Some(word) = usize::try_from(place / 64).ok().and_then(|word| self.bits.get_mut(word)) else { return };
        let bit = 1 << (place % 64);
        if *word & bit == 0 {
            *word |= bit;
            self.came += 1;
        } else {
            self.again += 1;
        }
    }

    /// Something came that nobody was to get.
    pub(crate) fn enter_strange(&mut self) {
        self.strange += 1;
    }

    pub(crate) fn expected(&self) -> u64 {
        self.receivers * self.messages
    }

    /// Different ones that have come.
    pub(crate) fn came(&self) -> u64 {
        self.came
    }

    /// Those that came once more than they were to.
    pub(crate) fn again(&self) -> u64 {
        self.again
    }

    pub(crate) fn lost(&self) -> u64 {
        self.expected() - self.came
    }

    /// # Errors
    /// When somebody got what was not for them.
    pub(crate) fn check(&self) -> Result<()> {
        ensure!(self.strange == 0, "{} messages reached clients that they were not for", self.strange);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_twice_does_not_stand_for_what_is_lost() {
        let mut ledger = Ledger::new(3, 50).expect("small");
        // One receiver gets everything twice, one nothing: in total as many as expected.
        for message in 0..50 {
            ledger.enter(0, message);
            ledger.enter(1, message);
            ledger.enter(0, message);
        }
        assert_eq!((ledger.expected(), ledger.came(), ledger.again(), ledger.lost()), (150, 100, 50, 50));
        // Nor one message for another.
        let mut ledger = Ledger::new(1, 2).expect("small");
        ledger.enter(0, 1);
        ledger.enter(0, 1);
        assert_eq!((ledger.came(), ledger.again(), ledger.lost()), (1, 1, 1));
        ledger.check().expect("all were for them");
    }

    #[test]
    fn what_nobody_expects_is_a_fault() {
        for (receiver, message) in [(3, 0), (0, 50), (u64::MAX, u64::MAX)] {
            let mut ledger = Ledger::new(3, 50).expect("small");
            ledger.enter(receiver, message);
            assert_eq!(ledger.came(), 0);
            ledger.check().expect_err("it was for nobody");
        }
        assert!(Ledger::new(1 << 20, 1 << 20).is_err() && Ledger::new(u64::MAX, 2).is_err());
    }
}
