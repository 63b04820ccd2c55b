//! What a driver's lines come to: which subscriptions stand where, which messages were read, which sends had which end. Pure.
//!
//! Faults that need no knowledge of the store are found here, as the lines come: a message that is not the next one, an event of a
//! subscription that has ended, an answer to nothing.

use std::collections::{BTreeMap, HashSet};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::Value;

use crate::judge::Fault;
use crate::transcript::Entry;

/// A place in a channel's history.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub struct Position {
    /// One incarnation of the history.
    pub epoch: u64,
    /// Counted from 1; 0 is before the first.
    pub offset: u64,
}

/// A client's label and a channel's name.
pub type Of = (String, String);

/// A message as an application was given it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadMessage {
    /// By whom, from which channel.
    pub of: Of,
    /// Where it is said to stand.
    pub position: Position,
    /// Who is said to have sent it.
    pub user: String,
    /// What it is said to say.
    pub body: Vec<u8>,
    /// When it is said to have been accepted.
    pub time_ms: i64,
}

/// A message that a driver was told to send.
#[derive(Debug, Clone)]
pub struct Sent {
    /// Of the command.
    pub id: u64,
    /// By whom, to which channel.
    pub of: Of,
    /// What.
    pub body: Vec<u8>,
    /// The SDK took it into its queue.
    pub submitted: bool,
    /// Its end, once it had one.
    pub outcome: Option<SendOutcome>,
}

/// What an SDK said became of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SendOutcome {
    /// Acknowledged, at this place.
    Done(Position),
    /// It may be stored, or not.
    Unconfirmed,
    /// It is not stored.
    Failed,
}

/// Where a subscription stands.
#[derive(Debug, Clone)]
pub struct Subscription {
    /// The place behind what was last given to the application.
    pub position: Position,
    /// The channel keeps its messages.
    pub keeps_history: bool,
    /// Messages given to the application.
    pub read: usize,
    /// It is not read.
    pub paused: bool,
    /// It has ended by itself: nothing follows.
    pub ended: bool,
    /// Its client is closed: only what was queued for the application may follow.
    pub closed: bool,
    /// Producers and sequences of a channel that keeps nothing.
    seen: HashSet<(String, u64)>,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Ledger {
    /// Commands without an answer, by id.
    pub open: BTreeMap<u64, Value>,
    /// Answers, by id.
    pub answers: BTreeMap<u64, Value>,
    /// Subscriptions that the runner has not ended.
    pub subscriptions: BTreeMap<Of, Subscription>,
    /// Everything that was read live, in order.
    pub read: Vec<ReadMessage>,
    /// Everything that was to be sent, in order.
    pub sent: Vec<Sent>,
    /// Sessions of each client, in order, each once.
    pub sessions: BTreeMap<String, Vec<String>>,
    /// What is wrong already.
    pub faults: Vec<Fault>,
}

#[derive(Deserialize)]
struct Told {
    position: Position,
    user: String,
    time_ms: i64,
    producer: String,
    sequence: u64,
    #[serde(flatten)]
    body: Body,
}

#[derive(Deserialize)]
struct Body {
    text: Option<String>,
    base64: Option<String>,
}

impl Body {
    fn bytes(self) -> Option<Vec<u8>> {
        match (self.text, self.base64) {
            (Some(text), None) => Some(text.into_bytes()),
            (None, Some(base64)) => STANDARD.decode(base64).ok(),
            _ => None,
        }
    }
}

/// A body as an event or a command has it.
pub fn body(value: &Value) -> Option<Vec<u8>> {
    serde_json::from_value::<Body>(value.clone()).ok()?.bytes()
}

fn text(value: &Value, field: &str) -> String {
    value[field].as_str().unwrap_or_default().to_owned()
}

fn of(value: &Value) -> Of {
    (text(value, "client"), text(value, "channel"))
}

fn position(value: &Value) -> Option<Position> {
    serde_json::from_value(value.clone()).ok()
}

impl Ledger {
    /// The next line.
    pub fn take(&mut self, index: usize, entry: &Entry) {
        match entry {
            Entry::Command(command) => self.command(command),
            Entry::Event(event) => self.event(index, event),
            Entry::Note(_) => {}
        }
    }

    fn command(&mut self, command: &Value) {
        let Some(id) = command["id"].as_u64() else { return };
        self.open.insert(id, command.clone());
        match command["command"].as_str() {
            Some("send") => {
                let body = body(command).unwrap_or_default();
                self.sent.push(Sent { id, of: of(command), body, submitted: false, outcome: None });
            }
            // What it then reads may be told before the answer.
            Some("unpause") => {
                if let Some(subscription) = self.subscriptions.get_mut(&of(command)) {
                    subscription.paused = false;
                }
            }
            _ => {}
        }
    }

    fn event(&mut self, index: usize, event: &Value) {
        let bad = || Fault::BadEvent { line: event.to_string() };
        match event["event"].as_str().unwrap_or_default() {
            "ready" | "token_wanted" => {}
            "done" | "failed" => self.answer(event),
            "submitted" => {
                let id = event["id"].as_u64().unwrap_or_default();
                match self.sent.iter_mut().find(|sent| sent.id == id) {
                    Some(sent) if !sent.submitted && sent.outcome.is_none() => sent.submitted = true,
                    _ => self.faults.push(bad()),
                }
            }
            "state" => {
                if event["state"] == "connected" {
                    let sessions = self.sessions.entry(text(event, "client")).or_default();
                    let session = text(event, "session");
                    if sessions.last() != Some(&session) {
                        sessions.push(session);
                    }
                }
            }
            name @ ("message" | "skipped" | "reset" | "can_publish" | "ended") => {
                let of = of(event);
                match self.subscriptions.get_mut(&of) {
                    Some(subscription) if !subscription.ended => {
                        if subscription.paused {
                            self.faults.push(Fault::WhilePaused { index, of: of.clone() });
                        }
                        if self.told(of, name, event).is_none() {
                            self.faults.push(bad());
                        }
                    }
                    _ => self.faults.push(Fault::NoSubscription { index, of }),
                }
            }
            // Not of a subscription's order: the newest counts, and some may be left out.
            "unread" => {
                let is_whole = event["count"].is_u64()
                    && position(&event["read"]).is_some()
                    && position(&event["newest"]).is_some();
                if !is_whole {
                    self.faults.push(bad());
                }
            }
            _ => self.faults.push(bad()),
        }
    }

    fn answer(&mut self, event: &Value) {
        let id = event["id"].as_u64().unwrap_or_default();
        let Some(command) = self.open.remove(&id) else {
            self.faults.push(Fault::AnswerToNothing { id });
            return;
        };
        let is_done = event["event"] == "done";
        match command["command"].as_str() {
            Some("subscribe") if is_done => match position(&event["position"]) {
                Some(position) => {
                    let subscription = Subscription {
                        position,
                        keeps_history: event["history"] != "none",
                        read: 0,
                        paused: command["paused"] == true,
                        ended: false,
                        closed: false,
                        seen: HashSet::new(),
                    };
                    self.subscriptions.insert(of(&command), subscription);
                }
                None => self.faults.push(Fault::BadEvent { line: event.to_string() }),
            },
            Some("unsubscribe") if is_done => {
                self.subscriptions.remove(&of(&command));
            }
            Some("pause") if is_done => {
                if let Some(subscription) = self.subscriptions.get_mut(&of(&command)) {
                    subscription.paused = true;
                }
            }
            Some("close") => {
                let client = text(&command, "client");
                let all = self.subscriptions.iter_mut();
                all.filter(|(of, _)| of.0 == client).for_each(|(_, subscription)| subscription.closed = true);
            }
            Some("send") => {
                let outcome = match (is_done, position(&event["position"])) {
                    (true, Some(position)) => SendOutcome::Done(position),
                    (true, None) => {
                        self.faults.push(Fault::BadEvent { line: event.to_string() });
                        SendOutcome::Unconfirmed
                    }
                    (false, _) if event["error"]["kind"] == "unconfirmed" => SendOutcome::Unconfirmed,
                    (false, _) => SendOutcome::Failed,
                };
                if let Some(sent) = self.sent.iter_mut().find(|sent| sent.id == id) {
                    if is_done && !sent.submitted {
                        self.faults.push(Fault::NeverSubmitted { id });
                    }
                    sent.outcome = Some(outcome);
                }
            }
            _ => {}
        }
        self.answers.insert(id, event.clone());
    }

    /// An event of a subscription that stands. `None` if it is not shaped as it must be.
    fn told(&mut self, of: Of, name: &str, event: &Value) -> Option<()> {
        let subscription = self.subscriptions.get_mut(&of)?;
        let at = subscription.position;
        let keeps_history = subscription.keeps_history;
        match name {
            "message" => {
                let Told { position, user, time_ms, producer, sequence, body } =
                    serde_json::from_value(event.clone()).ok()?;
                let body = body.bytes()?;
                subscription.read += 1;
                if !keeps_history {
                    if !subscription.seen.insert((producer, sequence)) {
                        self.faults.push(Fault::Doubled { of: of.clone(), position });
                    }
                } else if position.epoch != at.epoch {
                    self.faults.push(Fault::EpochUntold { of: of.clone(), position });
                } else if position.offset <= at.offset {
                    self.faults.push(Fault::Doubled { of: of.clone(), position });
                } else if position.offset > at.offset + 1 {
                    self.faults.push(Fault::Gap { of: of.clone(), after: at, position });
                }
                // One fault, not one for each message behind it.
                subscription.position = position.max(at);
                self.read.push(ReadMessage { of, position, user, body, time_ms });
            }
            "skipped" if event["reason"] == "slow-consumer" => {
                let (first, last) = (position(&event["first"])?, position(&event["last"])?);
                if keeps_history {
                    if first.offset != at.offset + 1 || last < first {
                        self.faults.push(Fault::Gap { of, after: at, position: first });
                    }
                    subscription.position = last;
                }
            }
            "skipped"
                if keeps_history || !["queue-full", "interrupted"].map(Value::from).contains(&event["reason"]) =>
            {
                return None;
            }
            "reset" => {
                event["code"].as_u64()?;
                subscription.position = position(&event["position"])?;
            }
            "can_publish" => {
                event["can_publish"].as_bool()?;
            }
            "ended" => {
                event["error"]["kind"].as_str()?;
                subscription.ended = true;
            }
            _ => {}
        }
        Some(())
    }
}
