//! When what connections have to send leaves, and what they tell by acknowledging it.

use std::time::Instant;

use millrace_core::{Now, SessionKey};
use millrace_quic::Protocol;

use super::{Quic, SOCKET};
use crate::poller::{Interest, Poller};
use crate::shard::Shard;

impl Quic {
    /// Sends for those who were sent something just now and have nothing to tell of it.
    pub(super) fn transmit_quiet(&mut self, now: Instant) {
        while !self.port.is_blocked() && self.sends_left > 0 {
            let Some(transmit) = self.driver.poll_quiet_transmit(now, self.port.buffer()) else { break };
            self.sends_left -= 1;
            self.port.push(transmit);
        }
    }

    /// Gives the port what there is to send.
    fn transmit(&mut self, now: Instant) {
        while !self.port.is_blocked() && self.sends_left > 0 {
            let Some(transmit) = self.driver.poll_transmit(now, self.port.buffer()) else { break };
            self.sends_left -= 1;
            self.port.push(transmit);
        }
    }

    /// Sends what there is to send, and what the port was given.
    pub(super) fn transmit_all(&mut self, now: Instant, poller: &Poller) {
        self.transmit(now);
        self.port.flush();
        let interest = if self.port.is_blocked() { Interest::ReadWrite } else { Interest::Read };
        if interest != self.interest && poller.change(&self.port, SOCKET, interest).is_ok() {
            self.interest = interest;
        }
    }
}

impl Shard {
    /// A session has sent no frame for a heartbeat: what its client's transport acknowledged says as much. Not a browser's, whose
    /// transport goes on while the page is at a halt.
    pub(in crate::shard) fn quic_listened(&mut self, now: Now, session: SessionKey) {
        let has_acknowledged = self.quic.as_mut().and_then(|quic| {
            let streams = &quic.peer(session)?.streams;
            let key = (streams.protocol() == Protocol::Millrace).then_some(streams.key())?;
            Some(quic.driver.has_acknowledged(key))
        });
        self.core.handle_listened(now, session, has_acknowledged == Some(true));
    }

    /// Sends what this turn has brought about.
    pub(in crate::shard) fn quic_transmit(&mut self, now: Now) {
        if let Some(quic) = &mut self.quic {
            quic.transmit_all(now.instant, &self.poller);
        }
    }

    /// Writes what waits in the core's queue, and sends it.
    pub(in crate::shard) fn quic_flush(&mut self, now: Now, session: SessionKey) {
        self.quic_write(now, session);
        if let Some(quic) = &mut self.quic {
            // At once, but for a few that leave together: to write for all and then to send for all would double the time to the first.
            quic.transmit(now.instant);
        }
    }
}
