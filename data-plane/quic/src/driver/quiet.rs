//! Connections that were sent something and have nothing to tell of it, as with nearly every acknowledgement: they are done with while their
//! state is in the processor's caches, where it would not be after hundreds of others.

use std::time::Instant;

use super::{Driver, Outgoing};

impl Driver {
    /// The next datagram of connections that were sent something since this was asked last, and have nothing to tell of it. What has
    /// something to tell is left for [`poll_event`](Self::poll_event) and [`poll_transmit`](Self::poll_transmit), so that an answer and an
    /// acknowledgement share a packet; and so is all that strangers were sent.
    ///
    /// To be asked, until there is none, after some datagrams; or not at all.
    pub fn poll_quiet_transmit(&mut self, now: Instant, buffer: &mut Vec<u8>) -> Option<Outgoing> {
        buffer.clear();
        while let Some(&index) = self.fresh.front() {
            // Looked at once; then it stays in front as long as it has something to send.
            if let Some(connection) = self.connections.get_mut(index)
                && std::mem::take(&mut connection.fresh)
            {
                let told = self.events.len();
                self.stir(now, index);
                if self.events.len() > told || self.connections.get(index).is_none_or(|connection| connection.sending) {
                    self.fresh.pop_front();
                    self.touch_to_send(index);
                    continue;
                }
            }
            match self.transmit_of(now, index, buffer) {
                None => drop(self.fresh.pop_front()),
                transmit => return transmit,
            }
        }
        None
    }

    /// What was not looked at while it was fresh is looked at with all others.
    pub(super) fn age(&mut self) {
        while let Some(index) = self.fresh.pop_front() {
            if let Some(connection) = self.connections.get_mut(index) {
                connection.fresh = false;
                self.touch(index);
            }
        }
    }
}
