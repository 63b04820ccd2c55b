//! A driver that lies must not pass. The liar here is a whole driver over a model of a server, honest but for one thing.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Result;
use millrace_conformance::driver::Driver;
use millrace_conformance::judge::Stored;
use millrace_conformance::ledger::Position;
use millrace_conformance::play::{Outcome, Over, play};
use millrace_conformance::scenario::Scenario;
use millrace_conformance::transport::Transport;
use millrace_conformance::trust::Trust;
use millrace_conformance::world::{Act, World};
use serde_json::{Value, json};

const SCENARIO: &str = r#"
title = "Lies"
about = "Whoever lies is found out."
needs = ["pause"]
channels = [{ name = "room", members = { alice = "owner", bob = "member" } }]
steps = [
  { do = "connect", client = "a", user = "alice" },
  { do = "connect", client = "b", user = "bob" },
  { do = "subscribe", client = "a", channel = "room" },
  { do = "subscribe", client = "b", channel = "room" },
  { do = "send", client = "a", channel = "room", texts = ["one", "two", "three"] },
  { do = "publish", channel = "room", user = "bob", texts = ["four", "five"] },
  { do = "read", client = "b", channel = "room", text = "five" },
  { do = "send", client = "a", channel = "elsewhere", text = "no", fails = { kind = "refused", code = 4005 } },
  { do = "unsubscribe", client = "a", channel = "room" },
  { do = "pause", client = "b", channel = "room" },
  { do = "publish", channel = "room", user = "alice", text = "six" },
  { do = "send", client = "a", channel = "elsewhere", text = "nor this", fails = { kind = "refused", code = 4005 } },
  { do = "unpause", client = "b", channel = "room" },
  { do = "read", client = "b", channel = "room", text = "six" },
  { do = "send", client = "b", channel = "room", text = "seven" },
  { do = "same-session", client = "a" },
]
"#;

/// What is wrong with the driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lie {
    Nothing,
    /// Messages.
    Doubled,
    Lost,
    LostAtTheEnd,
    Swapped,
    OtherText,
    OtherUser,
    OtherPlace,
    WhilePaused,
    AfterUnsubscribe,
    InventedReset,
    /// Sends.
    AcknowledgedElsewhere,
    AcknowledgedNotStored,
    StoredTwice,
    StoredAndRefused,
    OutOfOrder,
    /// Answers.
    AnsweredTwice,
    NotAnswered,
    OtherCode,
    NotSubmitted,
    /// The rest.
    NewSession,
    Garbage,
    UnknownEvent,
    EndsEarly,
}

/// A server and a driver in one, behind one lock: whatever is stored is told to every subscription at once.
struct Model {
    lie: Lie,
    stored: Vec<Stored>,
    users: BTreeMap<String, String>,
    /// The newest offset told, by client.
    readers: BTreeMap<String, u64>,
    paused: BTreeSet<String>,
    messages_told: u32,
    held_back: Option<Value>,
    out: Option<UnixStream>,
}

impl Model {
    fn tell(&mut self, event: &Value) {
        if let Some(out) = &mut self.out {
            writeln!(out, "{event}").expect("the runner reads");
        }
    }

    fn store(&mut self, user: &str, body: &str) -> Position {
        let position = Position { epoch: 1, offset: self.stored.len() as u64 + 1 };
        let time_ms = 1_000 + i64::try_from(position.offset).expect("the model is sound");
        self.stored.push(Stored { position, user: user.into(), body: body.into(), time_ms });
        self.deliver();
        position
    }

    fn deliver(&mut self) {
        let readers: Vec<(String, u64)> = self.readers.iter().map(|(client, at)| (client.clone(), *at)).collect();
        for (client, at) in readers {
            let is_paused = self.paused.contains(&client);
            if is_paused && self.lie != Lie::WhilePaused {
                continue;
            }
            for stored in self.stored.clone().into_iter().skip(usize::try_from(at).expect("the model is sound")) {
                self.readers.insert(client.clone(), stored.position.offset);
                self.tell_message(&client, &stored);
            }
        }
    }

    fn tell_message(&mut self, client: &str, stored: &Stored) {
        let mut event = json!({
            "event": "message", "client": client, "channel": "room", "user": stored.user, "time_ms": stored.time_ms,
            "position": { "epoch": 1, "offset": stored.position.offset },
            "producer": "7", "sequence": stored.position.offset,
            "text": String::from_utf8_lossy(&stored.body),
        });
        self.messages_told += 1;
        let is_chosen = self.messages_told == 3;
        let is_last = stored.body == b"seven" && client == "b";
        match self.lie {
            Lie::Doubled if is_chosen => self.tell(&event.clone()),
            Lie::Lost if is_chosen => return,
            Lie::LostAtTheEnd if is_last => return,
            Lie::Swapped if client == "b" && stored.body == b"two" => {
                self.held_back = Some(event);
                return;
            }
            Lie::OtherText if is_chosen => event["text"] = "something else".into(),
            Lie::OtherUser if is_chosen => event["user"] = "mallory".into(),
            Lie::OtherPlace if is_chosen => event["position"]["epoch"] = 2.into(),
            Lie::InventedReset if is_chosen => {
                let position = json!({ "epoch": 1, "offset": stored.position.offset - 1 });
                self.tell(&json!({
                    "event": "reset", "client": client, "channel": "room", "code": 4300, "position": position,
                }));
            }
            _ => {}
        }
        self.tell(&event);
        if client == "b"
            && let Some(held_back) = self.held_back.take()
        {
            self.tell(&held_back);
        }
    }

    fn done(&mut self, id: &Value, mut fields: Value) {
        fields["event"] = "done".into();
        fields["id"] = id.clone();
        self.tell(&fields);
    }

    fn fail(&mut self, id: &Value, kind: &str, code: u16) {
        let error = json!({ "kind": kind, "code": code, "advice": "do-not-retry", "message": "no" });
        self.tell(&json!({ "event": "failed", "id": id, "error": error }));
    }

    fn command(&mut self, command: &Value) {
        let id = &command["id"];
        let client = command["client"].as_str().expect("the model is sound").to_owned();
        match command["command"].as_str().expect("the model is sound") {
            "connect" => {
                self.users.insert(client.clone(), command["token"].as_str().expect("the model is sound").to_owned());
                self.done(id, json!({}));
                self.tell(
                    &json!({ "event": "state", "client": client, "state": "connected", "session": "1", "node": "n" }),
                );
            }
            "subscribe" => {
                let offset = self.stored.len() as u64;
                self.readers.insert(client, offset);
                let position = json!({ "epoch": 1, "offset": offset });
                self.done(id, json!({ "position": position, "history": "durable", "can_publish": true }));
            }
            "unsubscribe" => {
                self.done(id, json!({}));
                if self.lie != Lie::AfterUnsubscribe {
                    self.readers.remove(&client);
                }
            }
            "pause" => {
                self.paused.insert(client);
                self.done(id, json!({}));
            }
            "unpause" => {
                self.paused.remove(&client);
                self.done(id, json!({}));
                self.deliver();
            }
            "send" if command["channel"] != "room" => {
                self.fail(id, "refused", if self.lie == Lie::OtherCode { 4001 } else { 4005 });
            }
            "send" => self.send(id, &client, command["text"].as_str().expect("the model is sound")),
            "close" => {
                self.readers.remove(&client);
                self.done(id, json!({}));
                if self.lie == Lie::Garbage {
                    writeln!(self.out.as_mut().expect("the model is sound"), "panic: all is lost")
                        .expect("the model is sound");
                }
            }
            other => panic!("the runner said {other}"),
        }
    }

    fn send(&mut self, id: &Value, client: &str, text: &str) {
        let user = self.users[client].clone();
        let is_chosen = text == "two";
        if !(is_chosen && self.lie == Lie::NotSubmitted) {
            self.tell(&json!({ "event": "submitted", "id": id }));
        }
        let mut position = match self.lie {
            Lie::AcknowledgedNotStored if is_chosen => Position { epoch: 1, offset: 9 },
            // The next one's place is taken first.
            Lie::OutOfOrder if is_chosen => {
                self.store(&user, "three");
                self.store(&user, "two")
            }
            Lie::OutOfOrder if text == "three" => Position { epoch: 1, offset: 2 },
            _ => self.store(&user, text),
        };
        match self.lie {
            Lie::StoredTwice if is_chosen => drop(self.store(&user, text)),
            Lie::StoredAndRefused if is_chosen => return self.fail(id, "refused", 4006),
            Lie::AcknowledgedElsewhere if is_chosen => position.offset += 1,
            Lie::NotAnswered if is_chosen => return,
            Lie::NewSession if is_chosen => {
                let state =
                    json!({ "event": "state", "client": client, "state": "connected", "session": "2", "node": "n" });
                self.tell(&state);
            }
            Lie::UnknownEvent if is_chosen => self.tell(&json!({ "event": "echo", "client": client })),
            Lie::EndsEarly if is_chosen => {
                let out = self.out.take().expect("the model is sound");
                return out.shutdown(std::net::Shutdown::Both).expect("the model is sound");
            }
            _ => {}
        }
        let done = json!({ "position": { "epoch": 1, "offset": position.offset } });
        if is_chosen && self.lie == Lie::AnsweredTwice {
            self.done(id, done.clone());
        }
        self.done(id, done);
    }
}

/// The model as the runner sees a server.
#[derive(Clone)]
struct Shared(Arc<Mutex<Model>>);

impl World for Shared {
    fn address(&self, _: Transport) -> Option<SocketAddr> {
        None
    }

    fn token(&self, user: &str, _: &str) -> Result<String> {
        Ok(user.to_owned())
    }

    fn publish(&self, _: &str, user: &str, body: &[u8]) -> Result<Option<Position>> {
        Ok(Some(self.0.lock().expect("the model is sound").store(user, std::str::from_utf8(body)?)))
    }

    fn stored(&self) -> Result<BTreeMap<String, Vec<Stored>>> {
        Ok(BTreeMap::from([("room".to_owned(), self.0.lock().expect("the model is sound").stored.clone())]))
    }

    fn act(&self, act: &Act<'_>) -> Result<()> {
        anyhow::bail!("the model does not know {act:?}")
    }

    fn counter(&self, name: &str) -> Result<f64> {
        anyhow::bail!("the model does not count {name}")
    }

    fn log(&self) -> String {
        String::new()
    }
}

fn outcome(lie: Lie, capabilities: &[&str]) -> Outcome {
    let (ours, theirs) = UnixStream::pair().expect("the model is sound");
    let mut out = theirs.try_clone().expect("the model is sound");
    writeln!(out, "{}", json!({ "event": "ready", "protocol": 1, "sdk": "liar", "capabilities": capabilities }))
        .expect("the model is sound");
    let model = Model {
        lie,
        stored: Vec::new(),
        users: BTreeMap::new(),
        readers: BTreeMap::new(),
        paused: BTreeSet::new(),
        messages_told: 0,
        held_back: None,
        out: Some(out),
    };
    let shared = Shared(Arc::new(Mutex::new(model)));
    let model = shared.0.clone();
    std::thread::spawn(move || {
        for line in BufReader::new(theirs).lines() {
            let Ok(line) = line else { break };
            model
                .lock()
                .expect("the model is sound")
                .command(&serde_json::from_str(&line).expect("the model is sound"));
        }
        // As a process does whose standard input has ended.
        if let Some(out) = model.lock().expect("the model is sound").out.take() {
            let _ = out.shutdown(std::net::Shutdown::Both);
        }
    });
    let scenario = Scenario::parse("lies", SCENARIO).expect("the model is sound");
    let input = HalfClose(ours.try_clone().expect("the model is sound"));
    // What a liar does not say never comes, so that waiting longer would tell nothing.
    let over = Over { transport: Transport::Ws, trust: Arc::new(Trust::new().expect("the model is sound")) };
    play(&scenario, Arc::new(shared), &over, Duration::from_millis(500), |on_event| {
        let mut driver = Driver::over(Box::new(ours), Box::new(input), on_event);
        driver.until_ready()?;
        Ok(driver)
    })
    .expect("the model is sound")
}

/// Ends the driver's input when it is dropped, as a pipe does.
struct HalfClose(UnixStream);

impl Write for HalfClose {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.0.flush()
    }
}

impl Drop for HalfClose {
    fn drop(&mut self) {
        let _ = self.0.shutdown(std::net::Shutdown::Write);
    }
}

#[test]
fn an_honest_driver_passes() {
    assert_eq!(outcome(Lie::Nothing, &["pause"]), Outcome::Passed);
}

#[test]
fn a_capability_that_is_not_there_is_said() {
    assert_eq!(outcome(Lie::Nothing, &[]), Outcome::NotSupported(vec!["pause".into()]));
}

#[test]
fn every_lie_is_found() {
    let check = |lie, expect: &str| match outcome(lie, &["pause"]) {
        Outcome::Failed { faults, detail } => {
            assert!(faults.iter().any(|fault| fault.contains(expect)), "{lie:?}: {faults:#?}\n{detail}");
        }
        other => panic!("{lie:?}: {other:?}"),
    };
    check(Lie::Doubled, "was given 1/2 of room twice");
    check(Lie::Lost, "right behind");
    check(Lie::LostAtTheEnd, "b has read room up to 1/6, and 7 are stored");
    check(Lie::Swapped, "was given 1/3 of room right behind 1/1");
    check(Lie::Swapped, "was given 1/2 of room twice, or behind a later one");
    check(Lie::OtherText, "something else is stored there");
    check(Lie::OtherUser, "something else is stored there");
    check(Lie::OtherPlace, "without a word that the epoch changed");
    check(Lie::WhilePaused, "which is paused");
    check(Lie::AfterUnsubscribe, "a's subscription to room, which there is not");
    check(Lie::InventedReset, "bad news that the scenario does not expect");
    check(Lie::AcknowledgedElsewhere, "was acknowledged at 1/3 of room and is not stored there");
    check(Lie::AcknowledgedNotStored, "was acknowledged at 1/9 of room and is not stored there");
    check(Lie::StoredTwice, "is stored 2 times");
    check(Lie::StoredAndRefused, "it failed:");
    check(Lie::OutOfOrder, "is stored in room before what was sent before it");
    check(Lie::AnsweredTwice, "which is no open command");
    check(Lie::NotAnswered, "it did not come in time");
    check(Lie::OtherCode, "not with");
    check(Lie::NotSubmitted, "was never said to be submitted");
    check(Lie::NewSession, "there were 2 sessions, not 1");
    check(Lie::Garbage, "panic: all is lost");
    check(Lie::UnknownEvent, "what its protocol does not have");
    check(Lie::EndsEarly, "the driver has ended");
}
