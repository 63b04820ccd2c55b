//! Hops that wait: for this shard's own other half, and for the rings to other shards. Bounded by what causes them: live messages
//! by lagging, requests and so their answers by a count of those outstanding.

use std::collections::VecDeque;

use crate::ShardIndex;
use crate::hop::{Hop, HopBody};

pub(crate) struct Links {
    index: ShardIndex,
    links: Vec<Link>,
    deliveries_max: u32,
    requests_max: u32,
}

#[derive(Default)]
struct Link {
    queue: VecDeque<Hop>,
    /// Live batches in the queue.
    deliveries: u32,
    /// Requests sent there that are not answered.
    requests: u32,
}

impl Links {
    pub(crate) fn new(index: ShardIndex, shards: u16, deliveries_max: u32, requests_max: u32) -> Self {
        Self { index, links: (0..shards).map(|_| Link::default()).collect(), deliveries_max, requests_max }
    }

    pub(crate) fn send(&mut self, to: ShardIndex, body: HopBody) {
        let Some(link) = self.links.get_mut(to.get()) else { return };
        if matches!(body, HopBody::Live(_)) {
            link.deliveries += 1;
        }
        link.queue.push_back(Hop(body));
    }

    /// Whether a shard still takes live messages. Our own does: they are delivered before the turn ends.
    pub(crate) fn takes_live(&self, to: ShardIndex) -> bool {
        to == self.index || self.links.get(to.get()).is_some_and(|link| link.deliveries < self.deliveries_max)
    }

    /// Counts a request to a home's shard, unless too many there wait for their answer.
    pub(crate) fn admit(&mut self, to: ShardIndex) -> bool {
        match self.links.get_mut(to.get()) {
            Some(link) if link.requests < self.requests_max => {
                link.requests += 1;
                true
            }
            _ => false,
        }
    }

    /// Requests to a shard were answered.
    pub(crate) fn answered(&mut self, from: ShardIndex, requests: usize) {
        if let Some(link) = self.links.get_mut(from.get()) {
            let requests = u32::try_from(requests).unwrap_or(u32::MAX);
            debug_assert!(link.requests >= requests, "every answer had a request");
            link.requests = link.requests.saturating_sub(requests);
        }
    }

    pub(crate) fn poll(&mut self, to: ShardIndex) -> Option<Hop> {
        let link = self.links.get_mut(to.get())?;
        let hop = link.queue.pop_front()?;
        if matches!(hop.0, HopBody::Live(_)) {
            link.deliveries -= 1;
        }
        if link.queue.is_empty() && link.queue.capacity() > 256 {
            link.queue = VecDeque::new();
        }
        Some(hop)
    }

    /// The next hop to ourselves.
    pub(crate) fn poll_local(&mut self) -> Option<Hop> {
        self.poll(self.index)
    }

    /// No hop waits and no request is unanswered.
    pub(crate) fn is_idle(&self) -> bool {
        self.links.iter().all(|link| link.queue.is_empty() && link.requests == 0)
    }
}

#[cfg(test)]
mod tests {
    use millrace_protocol::ChannelId;

    use super::*;
    use crate::run::tests::run;

    #[test]
    fn each_kind_of_hop_has_its_bound() {
        let (home, far) = (ShardIndex(0), ShardIndex(1));
        let mut links = Links::new(home, 2, 2, 3);
        for first in 1..3 {
            assert!(links.takes_live(far));
            links.send(far, HopBody::Live(Box::new(run(first, &[1]))));
        }
        assert!(!links.takes_live(far) && links.takes_live(home));
        links.send(far, HopBody::Lagged(ChannelId::new(9).unwrap()));
        assert!(matches!(links.poll(far).unwrap().0, HopBody::Live(_)));
        assert!(links.takes_live(far), "room again");
        assert_eq!((0..9).filter(|_| links.admit(far)).count(), 3);
        links.answered(far, 2);
        assert_eq!((0..9).filter(|_| links.admit(far)).count(), 2);
        links.answered(far, 3);
        assert!(!links.is_idle(), "hops wait");
        while links.poll(far).is_some() {}
        assert!(links.is_idle() && links.poll_local().is_none());
    }
}
