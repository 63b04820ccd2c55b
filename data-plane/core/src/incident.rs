//! What went wrong lately, and which sessions ended: a bounded memory for the question "why did this client miss this message".
//!
//! Two rings, so that many refusals do not push out why sessions ended, nor the other way round. Nothing here is touched by a
//! message that is delivered.

use std::collections::VecDeque;

use millrace_protocol::node::{INCIDENT_CHANNELS_MAX, Incident, IncidentChannel, IncidentKind, InspectSubject};
use millrace_protocol::{ChannelId, ChannelName, Position, SessionId, TenantId, UserId};

/// How far back the same thing is looked for, to count it instead of keeping it twice.
const REPEATS_WITHIN: usize = 8;

pub(crate) struct Incidents {
    /// Of this turn, which do not know their time yet.
    pending: VecDeque<Record>,
    ended: VecDeque<Record>,
    others: VecDeque<Record>,
    /// Of each ring.
    records_max: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) kind: IncidentKind,
    pub(crate) code: u16,
    /// What the session's id is drawn from.
    pub(crate) draw: u64,
    pub(crate) tenant: TenantId,
    pub(crate) user: UserId,
    pub(crate) reason: &'static str,
    /// At most [`INCIDENT_CHANNELS_MAX`].
    pub(crate) places: Box<[Place]>,
    time_ms: i64,
    count: u32,
}

/// A channel that an incident concerns, and where in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) channel: Option<ChannelId>,
    pub(crate) name: Name,
    pub(crate) epoch: u32,
    pub(crate) first: u64,
    pub(crate) last: u64,
}

/// A channel's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Name {
    Known(ChannelName),
    /// As the client wrote it.
    Written(Box<str>),
}

impl Name {
    fn as_str(&self) -> &str {
        match self {
            Self::Known(name) => name.as_str(),
            Self::Written(name) => name,
        }
    }
}

impl Place {
    pub(crate) fn at(channel: ChannelId, name: ChannelName, at: Position) -> Self {
        let (epoch, offset) = (at.epoch.get(), at.offset);
        Self { channel: Some(channel), name: Name::Known(name), epoch, first: offset, last: offset }
    }

    /// Only the name is known.
    pub(crate) fn named(name: &str) -> Self {
        Self { channel: None, name: Name::Written(name.into()), epoch: 0, first: 0, last: 0 }
    }

    fn is_of(&self, channel: ChannelId, name: &ChannelName) -> bool {
        self.channel.map_or_else(|| self.name.as_str() == name.as_str(), |own| own == channel)
    }

    fn view(&self) -> IncidentChannel {
        let Self { channel, epoch, first: first_offset, last: last_offset, .. } = *self;
        IncidentChannel { channel, name: self.name.as_str().to_owned(), epoch, first_offset, last_offset }
    }
}

impl Record {
    pub(crate) fn new(kind: IncidentKind, code: u16, draw: u64, (tenant, user): (TenantId, UserId)) -> Self {
        Self { kind, code, draw, tenant, user, reason: "", places: Box::default(), time_ms: 0, count: 1 }
    }

    pub(crate) fn because(self, reason: &'static str) -> Self {
        Self { reason, ..self }
    }

    pub(crate) fn concerning(self, places: impl IntoIterator<Item = Place>) -> Self {
        Self { places: places.into_iter().take(INCIDENT_CHANNELS_MAX).collect(), ..self }
    }

    /// The same thing again, with at most its range moved on.
    fn repeats(&self, earlier: &Self) -> bool {
        let thing = |record: &Self| (record.kind as u8, record.code, record.draw);
        let same_place = |(a, b): (&Place, &Place)| a.channel == b.channel && a.name == b.name;
        thing(self) == thing(earlier)
            && self.places.len() == earlier.places.len()
            && self.places.iter().zip(&earlier.places).all(same_place)
    }

    /// Its places, if it is one of what is looked into.
    fn matching(&self, tenant: TenantId, subject: &InspectSubject) -> Option<Vec<IncidentChannel>> {
        if self.tenant != tenant {
            return None;
        }
        match subject {
            InspectSubject::User(user) => (self.user == *user).then(|| self.places.iter().map(Place::view).collect()),
            InspectSubject::Channel(channel, name) => {
                let of: Vec<_> =
                    self.places.iter().filter(|place| place.is_of(*channel, name)).map(Place::view).collect();
                (!of.is_empty()).then_some(of)
            }
        }
    }
}

impl Incidents {
    pub(crate) fn new(records_max: u32) -> Self {
        let records_max = records_max as usize;
        Self { pending: VecDeque::new(), ended: VecDeque::new(), others: VecDeque::new(), records_max }
    }

    pub(crate) fn push(&mut self, record: Record) {
        keep(&mut self.pending, record, 2 * self.records_max);
    }

    /// Ends a turn: what happened in it happened now.
    pub(crate) fn end_turn(&mut self, unix_ms: i64) {
        if self.pending.is_empty() {
            return;
        }
        for mut record in std::mem::take(&mut self.pending) {
            record.time_ms = unix_ms;
            if record.kind == IncidentKind::Ended {
                keep(&mut self.ended, record, self.records_max);
                continue;
            }
            let place = self.others.iter().rev().take(REPEATS_WITHIN).position(|earlier| record.repeats(earlier));
            if let Some(earlier) = place.and_then(|back| self.others.len().checked_sub(back + 1)) {
                // The newest of a kind stands last, so that the order is that of time.
                if let Some(earlier) = self.others.remove(earlier) {
                    record.count = earlier.count.saturating_add(1);
                    for (place, before) in record.places.iter_mut().zip(&earlier.places) {
                        if place.epoch == before.epoch {
                            place.first = place.first.min(before.first);
                        }
                    }
                }
            }
            keep(&mut self.others, record, self.records_max);
        }
    }

    /// The newest `rows_max` that concern what is looked into, and whether there are more. `id_of` gives a session's id.
    pub(crate) fn find(
        &self,
        tenant: TenantId,
        subject: &InspectSubject,
        rows_max: usize,
        id_of: impl Fn(u64) -> SessionId,
    ) -> (Vec<Incident>, bool) {
        let mut found: Vec<Incident> = self
            .ended
            .iter()
            .chain(&self.others)
            .filter_map(|record| {
                Some(Incident {
                    channels: record.matching(tenant, subject)?,
                    time_ms: record.time_ms,
                    kind: record.kind,
                    code: record.code,
                    session: id_of(record.draw),
                    user: record.user.clone(),
                    reason: record.reason.to_owned(),
                    count: record.count,
                })
            })
            .collect();
        found.sort_by_key(|incident| std::cmp::Reverse(incident.time_ms));
        let more = found.len() > rows_max;
        found.truncate(rows_max);
        (found, more)
    }
}

fn keep(ring: &mut VecDeque<Record>, record: Record, records_max: usize) {
    if ring.len() >= records_max {
        ring.pop_front();
    }
    if records_max > 0 {
        ring.push_back(record);
    }
}

#[cfg(test)]
mod tests {
    use millrace_protocol::Epoch;

    use super::*;

    fn tenant() -> TenantId {
        TenantId::new(1).unwrap()
    }

    fn channel(number: u64) -> ChannelId {
        ChannelId::new(number).unwrap()
    }

    fn name(name: &str) -> ChannelName {
        ChannelName::new(name).unwrap()
    }

    fn record(kind: IncidentKind, user: &str, draw: u64) -> Record {
        Record::new(kind, 4000, draw, (tenant(), UserId::new(user).unwrap()))
    }

    fn at(number: u64, offset: u64) -> Place {
        Place::at(channel(number), name("plans"), Position { epoch: Epoch::FIRST, offset })
    }

    /// Time, kind and count of what is found.
    fn rows(incidents: &Incidents, subject: &InspectSubject, rows_max: usize) -> (Vec<(i64, IncidentKind, u32)>, bool) {
        let id = |draw: u64| SessionId([u8::try_from(draw).unwrap(); 16]);
        let (found, more) = incidents.find(tenant(), subject, rows_max, id);
        (found.iter().map(|incident| (incident.time_ms, incident.kind, incident.count)).collect(), more)
    }

    #[test]
    fn users_and_channels_find_theirs() {
        let mut incidents = Incidents::new(10);
        incidents.push(record(IncidentKind::Ended, "ann", 1).concerning([at(7, 3), at(8, 1)]));
        incidents.push(record(IncidentKind::Refused, "bob", 2).concerning([Place::named("plans")]));
        incidents.end_turn(10);
        incidents.push(record(IncidentKind::Reload, "ann", 3).concerning([at(8, 5)]));
        incidents.end_turn(20);
        use IncidentKind::{Ended, Refused, Reload};
        let check = |subject: InspectSubject, expect: &[(i64, IncidentKind, u32)]| {
            assert_eq!(rows(&incidents, &subject, 10), (expect.to_vec(), false), "{subject:?}");
        };
        let user = |name: &str| InspectSubject::User(UserId::new(name).unwrap());
        check(user("ann"), &[(20, Reload, 1), (10, Ended, 1)]);
        check(user("bob"), &[(10, Refused, 1)]);
        check(user("cyd"), &[]);
        // A refusal knows no number, so its name finds it.
        check(InspectSubject::Channel(channel(7), name("plans")), &[(10, Ended, 1), (10, Refused, 1)]);
        check(InspectSubject::Channel(channel(8), name("other")), &[(20, Reload, 1), (10, Ended, 1)]);
        let (found, _) = incidents.find(TenantId::new(2).unwrap(), &user("ann"), 10, |_| SessionId([0; 16]));
        assert_eq!(found, [], "another tenant's ann");
        assert_eq!(rows(&incidents, &user("ann"), 1), (vec![(20, Reload, 1)], true));
        let (found, _) =
            incidents.find(tenant(), &InspectSubject::Channel(channel(8), name("x")), 10, |_| SessionId([0; 16]));
        assert_eq!(found[1].channels.len(), 1, "only the channel that was asked for");
    }

    #[test]
    fn what_comes_again_is_counted() {
        let mut incidents = Incidents::new(10);
        for (time_ms, offset) in [(1, 5), (2, 9), (3, 7)] {
            incidents.push(record(IncidentKind::Skipped, "ann", 1).concerning([at(7, offset)]));
            incidents.push(record(IncidentKind::Skipped, "bob", 2).concerning([at(7, offset)]));
            incidents.end_turn(time_ms);
        }
        let user = InspectSubject::User(UserId::new("ann").unwrap());
        assert_eq!(rows(&incidents, &user, 10).0, [(3, IncidentKind::Skipped, 3)]);
        let (found, _) = incidents.find(tenant(), &user, 10, |_| SessionId([0; 16]));
        assert_eq!((found[0].channels[0].first_offset, found[0].channels[0].last_offset), (5, 7));
        // A session ends once: two ends are two sessions'.
        incidents.push(record(IncidentKind::Ended, "ann", 1));
        incidents.push(record(IncidentKind::Ended, "ann", 1));
        incidents.end_turn(4);
        assert_eq!(rows(&incidents, &user, 10).0.len(), 3);
    }

    #[test]
    fn memory_is_bounded_and_one_kind_leaves_the_other_alone() {
        let mut incidents = Incidents::new(4);
        incidents.push(record(IncidentKind::Ended, "ann", 1));
        for draw in 0..100 {
            incidents.push(record(IncidentKind::Refused, "bob", draw));
            incidents.end_turn(i64::try_from(draw).unwrap());
        }
        assert_eq!((incidents.ended.len(), incidents.others.len()), (1, 4));
        for draw in 0..100 {
            incidents.push(record(IncidentKind::Ended, "bob", draw));
        }
        assert_eq!(incidents.pending.len(), 8);
        incidents.end_turn(200);
        assert_eq!((incidents.ended.len(), incidents.others.len()), (4, 4));
        let mut none = Incidents::new(0);
        none.push(record(IncidentKind::Ended, "ann", 1));
        none.end_turn(1);
        assert_eq!(none.ended.len(), 0);
    }
}
