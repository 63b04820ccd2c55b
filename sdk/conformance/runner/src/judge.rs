//! The judgement that every scenario gets without asking for it: what an SDK said, against what is stored. Pure.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::ledger::{Of, Position, SendOutcome, Sent};
use crate::transcript::{Entry, Transcript};

/// A message as the server has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// Where.
    pub position: Position,
    /// Who sent it.
    pub user: String,
    /// What it says.
    pub body: Vec<u8>,
    /// When it was accepted; Unix time, ms.
    pub time_ms: i64,
}

/// What is known apart from the transcript.
#[derive(Debug, Default)]
pub struct Facts {
    /// All messages of each channel that keeps them, ascending.
    pub stored: BTreeMap<String, Vec<Stored>>,
    /// What the runner published itself, by channel: user and body.
    pub published: BTreeMap<String, Vec<(String, Vec<u8>)>>,
    /// Who each client is.
    pub users: BTreeMap<String, String>,
    /// Lines that the scenario waited for.
    pub explained: BTreeSet<usize>,
}

/// What an SDK, or its driver, did wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "each message says it")]
pub enum Fault {
    #[error("the driver said what its protocol does not have, or not there: {line}")]
    BadEvent { line: String },
    #[error("an answer to {id}, which is no open command")]
    AnswerToNothing { id: u64 },
    #[error("no answer to {command}")]
    Unanswered { command: Value },
    #[error("send {id} is done and was never said to be submitted")]
    NeverSubmitted { id: u64 },
    #[error("line {index} is of {}'s subscription to {}, which there is not", .of.0, .of.1)]
    NoSubscription { index: usize, of: Of },
    #[error("line {index} is of {}'s subscription to {}, which is paused", .of.0, .of.1)]
    WhilePaused { index: usize, of: Of },
    #[error("{} was given {} of {} twice, or behind a later one", .of.0, show(.position), .of.1)]
    Doubled { of: Of, position: Position },
    #[error("{} was given {} of {} right behind {}", .of.0, show(.position), .of.1, show(.after))]
    Gap { of: Of, after: Position, position: Position },
    #[error("{} was given {} of {} without a word that the epoch changed", .of.0, show(.position), .of.1)]
    EpochUntold { of: Of, position: Position },
    #[error("{} was given {} of {}, and something else is stored there", .of.0, show(.position), .of.1)]
    Altered { of: Of, position: Position },
    #[error("{} has read {} up to {}, and {head} are stored", .of.0, .of.1, show(.at))]
    Incomplete { of: Of, at: Position, head: u64 },
    #[error("{}'s {body:?} was acknowledged at {} of {} and is not stored there", .of.0, show(.position), .of.1)]
    FalseAcknowledgement { of: Of, body: String, position: Position },
    #[error("{}'s {body:?} is stored {times} times in {}", .of.0, .of.1)]
    StoredAgain { of: Of, body: String, times: usize },
    #[error("{}'s {body:?} failed for certain and is stored in {}", .of.0, .of.1)]
    StoredAfterAll { of: Of, body: String },
    #[error("{}'s {body:?} is stored in {} before what was sent before it", .of.0, .of.1)]
    Overtaken { of: Of, body: String },
    #[error("{channel} has {body:?}, which nobody sent")]
    Foreign { channel: String, body: String },
    #[error("bad news that the scenario does not expect: {line}")]
    Unexpected { line: String },
}

fn show(position: &Position) -> String {
    format!("{}/{}", position.epoch, position.offset)
}

fn lossy(body: &[u8]) -> String {
    let mut text = String::from_utf8_lossy(body).into_owned();
    text.truncate(text.floor_char_boundary(60));
    text
}

/// Everything that is wrong with what a driver said.
pub fn judge(transcript: &Transcript, facts: &Facts) -> Vec<Fault> {
    let ledger = &transcript.ledger;
    let mut faults = ledger.faults.clone();
    faults.extend(ledger.open.values().map(|command| Fault::Unanswered { command: command.clone() }));
    for (index, entry) in transcript.entries.iter().enumerate() {
        if let Entry::Event(event) = entry
            && is_bad_news(event)
            && !facts.explained.contains(&index)
        {
            faults.push(Fault::Unexpected { line: event.to_string() });
        }
    }
    for read in &ledger.read {
        // A channel that keeps nothing has nothing to compare with.
        let Some(stored) = facts.stored.get(&read.of.1) else { continue };
        let same =
            |stored: &Stored| stored.user == read.user && stored.body == read.body && stored.time_ms == read.time_ms;
        let is_true = match at(stored, read.position) {
            Some(stored) => same(stored),
            None => is_lost(stored, read.position),
        };
        if !is_true {
            faults.push(Fault::Altered { of: read.of.clone(), position: read.position });
        }
    }
    for (channel, stored) in &facts.stored {
        let sent: Vec<&Sent> = ledger.sent.iter().filter(|sent| sent.of.1 == *channel).collect();
        for one in &sent {
            faults.extend(check_sent(one, stored, facts));
        }
        faults.extend(check_order(&sent, stored));
        let nothing = Vec::new();
        let published = facts.published.get(channel).unwrap_or(&nothing);
        for stored in stored {
            let by_driver = sent.iter().any(|sent| is_same(sent, stored, facts));
            let by_runner = published.iter().any(|(user, body)| *user == stored.user && *body == stored.body);
            if !by_driver && !by_runner {
                faults.push(Fault::Foreign { channel: channel.clone(), body: lossy(&stored.body) });
            }
        }
    }
    faults
}

/// Subscriptions that are read and have not come to the end of what is stored.
pub fn incomplete(transcript: &Transcript, stored: &BTreeMap<String, Vec<Stored>>) -> Option<Fault> {
    transcript.ledger.subscriptions.iter().find_map(|(of, subscription)| {
        let head = stored.get(&of.1)?.last().map_or(0, |last| last.position.offset);
        let is_read = !subscription.paused && !subscription.ended && !subscription.closed;
        let is_behind = is_read && subscription.position.offset < head;
        is_behind.then(|| Fault::Incomplete { of: of.clone(), at: subscription.position, head })
    })
}

/// What no application wants to hear. A scenario has to say that it expects it.
fn is_bad_news(event: &Value) -> bool {
    match event["event"].as_str().unwrap_or_default() {
        "skipped" | "reset" | "can_publish" | "ended" => true,
        "state" => event["state"] == "closed" && !event["error"].is_null(),
        _ => false,
    }
}

fn at(stored: &[Stored], position: Position) -> Option<&Stored> {
    stored.iter().find(|stored| stored.position == position)
}

/// Whether a message that is not there belongs to an epoch that has ended: then it may be lost.
fn is_lost(stored: &[Stored], position: Position) -> bool {
    stored.last().is_some_and(|last| last.position.epoch > position.epoch)
}

fn is_same(sent: &Sent, stored: &Stored, facts: &Facts) -> bool {
    stored.body == sent.body && facts.users.get(&sent.of.0) == Some(&stored.user)
}

fn check_sent(sent: &Sent, stored: &[Stored], facts: &Facts) -> Option<Fault> {
    let of = sent.of.clone();
    let body = lossy(&sent.body);
    let places: Vec<Position> =
        stored.iter().filter(|stored| is_same(sent, stored, facts)).map(|stored| stored.position).collect();
    if places.len() > 1 {
        return Some(Fault::StoredAgain { of, body, times: places.len() });
    }
    match sent.outcome.as_ref()? {
        SendOutcome::Failed if !places.is_empty() => Some(Fault::StoredAfterAll { of, body }),
        // An acknowledgement of what was stored so long ago that the place is forgotten names none.
        SendOutcome::Done(position) if position.offset == 0 && !places.is_empty() => None,
        SendOutcome::Done(position) if !places.contains(position) && !is_lost(stored, *position) => {
            Some(Fault::FalseAcknowledgement { of, body, position: *position })
        }
        _ => None,
    }
}

/// What one client sent to a channel is stored in the order in which it was sent, but for what the SDK gave up without knowing.
fn check_order(sent: &[&Sent], stored: &[Stored]) -> Vec<Fault> {
    let mut last: BTreeMap<&str, Position> = BTreeMap::new();
    let mut faults = Vec::new();
    for sent in sent {
        let Some(SendOutcome::Done(position)) = sent.outcome else { continue };
        if at(stored, position).is_none() {
            continue;
        }
        let before = last.insert(&sent.of.0, position);
        if before.is_some_and(|before| before > position) {
            faults.push(Fault::Overtaken { of: sent.of.clone(), body: lossy(&sent.body) });
        }
    }
    faults
}

#[cfg(test)]
mod tests;
