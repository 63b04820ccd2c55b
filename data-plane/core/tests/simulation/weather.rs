//! What goes wrong around a node.

use std::collections::HashSet;
use std::time::Duration;

use millrace_core::{ControlEvent, Drain, home_of};
use millrace_protocol::client::HistoryClass;
use millrace_protocol::node::{
    MemberChanged, NewMessage, NodeBody, NodeFrame, PublishOrder, RevokedTokens, Role, TokensRevoked,
};
use millrace_protocol::{Producer, ProducerSequence, Term, UserId};

use super::client::{WantState, body};
use super::world::{World, tenant};

/// How much goes wrong, in parts of a thousand for each step.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Weather {
    pub(crate) cut: u64,
    pub(crate) phantom: u64,
    pub(crate) usurp: u64,
    pub(crate) crash: u64,
    pub(crate) stop: u64,
    pub(crate) disconnect: u64,
    pub(crate) membership: u64,
    pub(crate) revoke: u64,
    pub(crate) archive: u64,
    pub(crate) order: u64,
}

impl World {
    pub(crate) fn misfortune(&mut self) {
        let weather = self.weather;
        if self.link_up && self.random.chance(weather.cut) {
            self.cut();
        }
        if self.link_up && self.random.chance(weather.usurp) {
            // A newer link has taken the slots although ours is not cut yet; it will be.
            let user = UserId::new("phantom").unwrap();
            self.control.phantom(&mut self.random, &user);
        }
        if self.random.chance(weather.crash) {
            self.crash();
        }
        if self.stopping.is_none() && self.random.chance(weather.stop) {
            self.stop();
        }
        for index in 0..self.clients.len() {
            if self.random.chance(weather.disconnect) {
                self.disconnect(index);
            }
        }
        if self.random.chance(weather.membership) {
            self.change_membership();
        }
        if self.random.chance(weather.revoke) {
            self.revoke();
        }
        if self.random.chance(weather.archive) {
            self.archive();
        }
        if self.link_up && self.random.chance(weather.order) {
            self.order();
        }
    }

    pub(crate) fn cut(&mut self) {
        self.link_up = false;
        self.link_at = self.now_ms + self.random.below(600);
        for (_, frame) in std::mem::take(&mut self.to_control) {
            if self.random.chance(500) {
                let at = self.now_ms + self.random.below(800);
                self.stragglers.push((at, frame));
            }
        }
        let now = self.now_ms;
        for queue in &mut self.to_shards {
            // What had arrived before the cut is still heard.
            let keep = if queue.is_empty() { 0 } else { self.random.index(queue.len() + 1) };
            queue.truncate(keep);
            queue.push_back((now, ControlEvent::LinkDown));
        }
        self.orders.clear();
        if self.random.chance(self.weather.phantom) {
            let user = UserId::new("phantom").unwrap();
            self.control.phantom(&mut self.random, &user);
        }
    }

    pub(crate) fn link(&mut self) {
        if self.link_up || self.link_at > self.now_ms {
            return;
        }
        self.link_up = true;
        self.control.term += 1;
        let term = Term(self.control.term);
        for queue in &mut self.to_shards {
            queue.push_back((self.now_ms, ControlEvent::LinkUp { term }));
        }
    }

    fn crash(&mut self) {
        for channel in self.control.channels.values_mut() {
            channel.lossy |= channel.history == HistoryClass::Windowed;
        }
        self.restart();
    }

    fn restart(&mut self) {
        let shards = self.shards.len();
        self.cut();
        for index in 0..self.clients.len() {
            if self.clients[index].connection.is_some() {
                self.clients[index].disconnected(&mut self.random, self.now_ms);
            }
        }
        self.gone.clear();
        self.stopping = None;
        self.boot(shards);
    }

    /// A clean stop begins.
    fn stop(&mut self) {
        self.stopping = Some((self.now_ms + 2_000, HashSet::new()));
        let now = self.now();
        for shard in &mut self.shards {
            shard.handle_drain(now, Drain { over: Duration::from_millis(1_000), endpoints: Vec::new() });
        }
    }

    /// The stop ends when every shard has given back what it held: then nothing is lost, not even of windowed channels. One that
    /// takes too long is cut short.
    pub(crate) fn stopped(&mut self) {
        let Some((until, drained)) = &self.stopping else { return };
        if drained.len() == self.shards.len() {
            self.records.stops += 1;
            self.restart();
        } else if *until <= self.now_ms {
            self.crash();
        }
    }

    fn disconnect(&mut self, index: usize) {
        let Some(connection) = &self.clients[index].connection else { return };
        let noticed = self.now_ms + self.random.below(300);
        self.gone.push((noticed, connection.shard, connection.session));
        self.clients[index].disconnected(&mut self.random, self.now_ms);
    }

    fn push(&mut self, body: &NodeBody) {
        if !self.link_up {
            return;
        }
        let at = self.now_ms + self.random.below(self.delay);
        for queue in &mut self.to_shards {
            let at = queue.back().map_or(at, |(last, _)| at.max(*last));
            let frame = NodeFrame { id: 0, body: body.clone() };
            queue.push_back((at, ControlEvent::Frame(frame)));
        }
    }

    fn change_membership(&mut self) {
        let index = self.random.index(self.clients.len());
        let user = self.clients[index].user.clone();
        let ids: Vec<_> = self.control.channels.keys().copied().collect();
        let id = ids[self.random.index(ids.len())];
        let channel = self.control.channel(id);
        let membership = match channel.members.get(&user) {
            Some(_) if self.random.chance(400) => {
                channel.members.remove(&user);
                None
            }
            _ => {
                let can_publish = self.random.chance(700);
                channel.members.insert(user.clone(), can_publish);
                Some((Role::Member, can_publish))
            }
        };
        self.push(&NodeBody::MemberChanged(MemberChanged {
            tenant: tenant(),
            channel: id,
            user: user.clone(),
            membership,
        }));
        if membership.is_some() {
            for client in self.clients.iter_mut().filter(|client| client.user == user) {
                if let Some(want) = client.wants.get_mut(&id).filter(|want| want.state == WantState::Denied) {
                    want.state = WantState::Idle;
                }
            }
        }
    }

    fn revoke(&mut self) {
        let user = self.clients[self.random.index(self.clients.len())].user.clone();
        let unix_ms = self.now().unix_ms;
        let which = if self.random.chance(500) {
            RevokedTokens::UserBefore(user, unix_ms - 100)
        } else {
            RevokedTokens::Token(self.random.below(1_000_000).to_string())
        };
        let forget_after_ms = unix_ms + 100_000;
        self.push(&NodeBody::TokensRevoked(TokensRevoked { tenant: tenant(), which, forget_after_ms }));
    }

    fn archive(&mut self) {
        let ids: Vec<_> = self.control.channels.keys().copied().collect();
        let id = ids[self.random.index(ids.len())];
        let archived = self.random.chance(300);
        let channel = self.control.channel(id);
        // What a windowed home has not written yet cannot be written any more if the link is cut before it is.
        channel.archived |= archived;
        channel.lossy |= archived && channel.history == HistoryClass::Windowed;
        let name = channel.name.clone();
        self.push(&NodeBody::ChannelChanged { tenant: tenant(), channel: id, name, archived });
    }

    /// A publish over REST.
    fn order(&mut self) {
        let ids: Vec<_> = self.control.channels.keys().copied().collect();
        let channel = ids[self.random.index(ids.len())];
        let history = self.control.channel(channel).history;
        let user = UserId::new("rest").unwrap();
        let producer = Producer::new(self.random.next() | 1).unwrap();
        let sequence = ProducerSequence::FIRST;
        let body = body(&user, channel, producer, sequence).into();
        let message = NewMessage { user, producer, sequence, time_ms: 0, body };
        let order = PublishOrder { tenant: tenant(), channel, history, message };
        let home = home_of(channel, u16::try_from(self.shards.len()).unwrap());
        self.orders.insert(self.next_order, (channel, producer));
        let queue = &mut self.to_shards[home.get()];
        let at = queue.back().map_or(self.now_ms, |(last, _)| self.now_ms.max(*last));
        let frame = NodeFrame { id: self.next_order, body: NodeBody::Publish(order) };
        queue.push_back((at, ControlEvent::Frame(frame)));
        self.next_order += 1;
    }
}
