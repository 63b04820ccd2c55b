//! What each step does.

use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::Player;
use crate::ledger::body;
use crate::proxy::Proxy;
use crate::scenario::{
    Archive, Close, Connect, Fill, Frames, History, Inject, MarkRead, Network, OfChannel, Publish, RemoveMember,
    Revoke, Scenario, Send, SetMember, Step, Submitted, Subscribe, Tamper, Touch,
};
use crate::transport::Transport;
use crate::world::Act;

/// Vectors of frames that a node sends.
const VECTORS: &str = include_str!("../../../vectors/server.json");
/// Messages that `fill` publishes at most.
const FILL_MAX: u32 = 4_000;
/// Between two looks at a counter, in messages.
const FILL_LOOK: u32 = 8;

impl Player {
    pub(super) fn step(&mut self, scenario: &Scenario, step: &Step) -> Result<()> {
        match step {
            Step::Connect(step) => self.connect(step, scenario.touch(&step.client)),
            Step::Subscribe(step) => self.subscribe(step),
            Step::Unsubscribe(of) => self.of_channel("unsubscribe", of),
            Step::Pause(of) => self.of_channel("pause", of),
            Step::Unpause(of) => self.of_channel("unpause", of),
            Step::Send(step) => self.send(step),
            Step::MarkRead(MarkRead { client, channel, position, fails }) => {
                let command =
                    json!({ "command": "mark-read", "client": client, "channel": channel, "position": position });
                self.call(command, None, fails.as_ref())?;
                Ok(())
            }
            Step::History(step) => self.history(step),
            Step::Close(Close { client, fails }) => {
                self.call(json!({ "command": "close", "client": client }), None, fails.as_ref())?;
                Ok(())
            }
            Step::Await(step) => {
                for id in self.call_ids(&step.call)? {
                    let is_done = self.answer(id)?["event"] == "done";
                    if !(step.either && is_done) {
                        self.outcome(id, step.fails.as_ref())?;
                    }
                }
                Ok(())
            }
            Step::Event(step) => self.event(&step.client, step.channel.as_deref(), &step.event, &step.with),
            Step::Read(step) => self.read(&step.client, &step.channel, step.text.as_deref(), step.count),
            Step::Reconnected(of) => self.reconnected(&of.client),
            Step::SameSession(of) => {
                let known = self.sessions.get(&of.client).copied().unwrap_or(0);
                let seen = self.transcript.lock().ledger.sessions.get(&of.client).map_or(0, Vec::len);
                ensure!(seen == known, "there were {seen} sessions, not {known}");
                Ok(())
            }
            Step::Submitted(step) => self.submitted(step),
            Step::Publish(step) => self.publish(step),
            Step::Fill(step) => self.fill(step),
            Step::SetMember(SetMember { channel, user, role }) => self.act(&Act::SetMember { channel, user, role }),
            Step::RemoveMember(RemoveMember { channel, user }) => self.act(&Act::RemoveMember { channel, user }),
            Step::Archive(Archive { channel }) => self.act(&Act::Archive { channel }),
            Step::Revoke(Revoke { user }) => self.act(&Act::Revoke { user }),
            Step::Kill(of) => self.act(&Act::Kill { node: of.node.as_deref().unwrap_or("dev") }),
            Step::Stop(of) => self.act(&Act::Stop { node: of.node.as_deref().unwrap_or("dev") }),
            Step::Start(of) => self.act(&Act::Start { node: of.node.as_deref().unwrap_or("dev") }),
            Step::Network(Network { client, is }) => {
                self.note(format!("network of {client}: {is:?}"));
                self.proxy(client)?.set(*is)
            }
            Step::Tamper(Tamper { client, text, how }) => {
                self.note(format!("network of {client}: {how:?} {text:?}"));
                self.proxy(client)?.tamper(text, *how);
                Ok(())
            }
            Step::Inject(Inject { client, vector }) => {
                self.note(format!("network of {client}: inject {vector}"));
                self.proxy(client)?.inject(&frame(vector)?)
            }
            Step::Frames(Frames { client, frame, count }) => {
                self.proxy(client)?.until_seen(frame, *count, self.deadline())
            }
        }
    }

    fn act(&mut self, act: &Act<'_>) -> Result<()> {
        self.note(format!("{act:?}"));
        self.world.act(act)
    }

    fn connect(&mut self, step: &Connect, touch: Touch) -> Result<()> {
        let Connect { client, options, .. } = step;
        let user = step.user.as_ref().unwrap_or(client);
        let (world, transport) = (self.world.clone(), self.over.transport);
        let proxy = Proxy::start(transport, touch, Arc::new(move || world.address(transport)), &self.over.trust)?;
        let mut command = json!({ "command": "connect", "client": client, "url": proxy.url() });
        if step.dead_first {
            let dead = Proxy::start(transport, Touch::Connections, Arc::new(|| None), &self.over.trust)?;
            command["urls"] = json!([proxy.url()]);
            command["url"] = dead.url().into();
            self.proxies.insert(format!("{client} (dead)"), dead);
        }
        self.proxies.insert(client.clone(), proxy);
        match &step.provider {
            Some(kinds) => {
                let provider = (user.clone(), kinds.clone());
                self.providers.0.lock().expect("no holder panics").insert(client.clone(), provider);
                command["token_provider"] = true.into();
            }
            None => {
                command["token"] = self.world.token(user, step.token.as_deref().unwrap_or("1h"))?.into();
            }
        }
        if step.lazy {
            command["lazy"] = true.into();
        }
        if transport == Transport::WebTransport {
            command["certificate_hashes"] = json!([{ "algorithm": "sha-256", "value": self.over.trust.hash() }]);
        }
        // Short waits, where the SDK lets us: nobody is there to be spared.
        if self.capabilities.iter().any(|capability| capability == "backoff") {
            command["backoff_first_ms"] = 20.into();
            command["backoff_max_ms"] = 200.into();
        }
        for (option, value) in options {
            if !option.starts_with("backoff") || !command["backoff_first_ms"].is_null() {
                command[option] = value.clone();
            }
        }
        self.facts.users.insert(client.clone(), user.clone());
        let done = self.call(command, step.call.as_ref(), step.fails.as_ref())?;
        if step.fails.is_some() {
            self.facts.users.remove(client);
        } else if done.is_some() && !step.lazy {
            self.reconnected(client)?;
        }
        Ok(())
    }

    /// Waits for a session that no step knows of.
    fn reconnected(&mut self, client: &str) -> Result<()> {
        let known = self.sessions.get(client).copied().unwrap_or(0);
        let seen = self.transcript.wait(self.deadline(), |transcript| {
            transcript.ledger.sessions.get(client).map(Vec::len).filter(|&seen| seen > known)
        });
        let seen = seen.map_err(|why| anyhow::anyhow!("{client} has no new session: {why}"))?;
        self.sessions.insert(client.to_owned(), seen);
        Ok(())
    }

    fn subscribe(&mut self, step: &Subscribe) -> Result<()> {
        let Subscribe { client, channel, start, paused, .. } = step;
        let mut command = json!({ "command": "subscribe", "client": client, "channel": channel });
        if let Some(start) = start {
            command["start"] = start.clone();
        }
        if *paused {
            command["paused"] = true.into();
        }
        let done = self.call(command, step.call.as_ref(), step.fails.as_ref())?;
        if let (Some(done), Some(pattern)) = (done, &step.finds) {
            ensure!(super::fits(pattern, &done), "it found {done}, not {pattern:?}");
        }
        Ok(())
    }

    fn of_channel(&mut self, command: &str, of: &OfChannel) -> Result<()> {
        self.call(json!({ "command": command, "client": of.client, "channel": of.channel }), None, None)?;
        Ok(())
    }

    fn send(&mut self, step: &Send) -> Result<()> {
        let Send { client, channel, .. } = step;
        let mut ids = Vec::new();
        for body in self.bodies(&step.bodies())? {
            let mut command = json!({ "command": "send", "client": client, "channel": channel });
            put(&mut command, &body);
            ids.push(self.link.command(command)?);
        }
        match &step.call {
            Some(call) => {
                self.calls.insert(call.clone(), ids);
            }
            None => {
                for id in ids {
                    self.outcome(id, step.fails.as_ref())?;
                }
            }
        }
        Ok(())
    }

    fn history(&mut self, step: &History) -> Result<()> {
        let History { client, channel, before, after, limit, texts, more, fails } = step;
        let mut command = json!({ "command": "history", "client": client, "channel": channel });
        for (field, value) in [("before", before), ("after", after), ("limit", &limit.map(u64::from))] {
            if let Some(value) = value {
                command[field] = (*value).into();
            }
        }
        let Some(page) = self.call(command, None, fails.as_ref())? else { return Ok(()) };
        if fails.is_some() {
            return Ok(());
        }
        let messages = page["messages"].as_array().context("a page has messages")?;
        if let Some(texts) = texts {
            let found: Vec<String> = messages
                .iter()
                .map(|message| String::from_utf8_lossy(&body(message).unwrap_or_default()).into_owned())
                .collect();
            ensure!(found == *texts, "the page has {found:?}");
        }
        let mut last = None;
        for message in messages {
            let offset = message["position"]["offset"].as_u64().context("a message has a position")?;
            ensure!(last.is_none_or(|last| offset == last + 1), "the page has {offset} behind {last:?}");
            last = Some(offset);
        }
        if let Some(more) = more {
            ensure!(page["more"] == *more, "the page says more: {}", page["more"]);
        }
        Ok(())
    }

    fn read(&mut self, client: &str, channel: &str, text: Option<&str>, count: Option<usize>) -> Result<()> {
        let of = (client.to_owned(), channel.to_owned());
        let found = self.transcript.wait(self.deadline(), |transcript| {
            let ledger = &transcript.ledger;
            let by_text = |text: &str| ledger.read.iter().any(|one| one.of == of && one.body == text.as_bytes());
            let read = ledger.subscriptions.get(&of).map_or(0, |subscription| subscription.read);
            (text.is_none_or(by_text) && count.is_none_or(|count| read >= count)).then_some(())
        });
        let read = self.read_by(&of);
        found.map_err(|why| anyhow::anyhow!("{client} has read {read} messages of {channel}: {why}"))?;
        ensure!(count.is_none_or(|count| read == count), "{client} has read {read} messages of {channel}");
        Ok(())
    }

    fn submitted(&mut self, step: &Submitted) -> Result<()> {
        let ids = self.call_ids(&step.call)?;
        let count = |transcript: &crate::transcript::Transcript| {
            transcript.ledger.sent.iter().filter(|sent| sent.submitted && ids.contains(&sent.id)).count()
        };
        if step.at_most {
            let submitted = count(&self.transcript.lock());
            ensure!(submitted <= step.count, "{submitted} are submitted, {} may be", step.count);
            return Ok(());
        }
        let wanted = step.count;
        let found = self.transcript.wait(self.deadline(), |transcript| (count(transcript) >= wanted).then_some(()));
        let submitted = count(&self.transcript.lock());
        found.map_err(|why| anyhow::anyhow!("{submitted} of {wanted} are submitted: {why}"))
    }

    fn publish(&mut self, step: &Publish) -> Result<()> {
        for body in self.bodies(&step.bodies())? {
            self.publish_one(&step.channel, &step.user, body)?;
        }
        Ok(())
    }

    fn publish_one(&mut self, channel: &str, user: &str, body: Vec<u8>) -> Result<()> {
        if let Some(position) = self.world.publish(channel, user, &body)? {
            let newest = self.newest.entry(channel.to_owned()).or_insert(position);
            *newest = position.max(*newest);
        }
        self.note(format!("{user} has published {} bytes to {channel}", body.len()));
        self.facts.published.entry(channel.to_owned()).or_default().push((user.to_owned(), body));
        Ok(())
    }

    /// Publishes until the data node counts one more of something.
    fn fill(&mut self, step: &Fill) -> Result<()> {
        let before = self.world.counter(&step.until)?;
        let deadline = self.deadline();
        for number in 1..=FILL_MAX {
            let body = self.made_up(step.bytes);
            self.publish_one(&step.channel, &step.user, body)?;
            if number % FILL_LOOK == 0 && self.world.counter(&step.until)? > before {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "{number} messages, and {} stays at {before}", step.until);
        }
        bail!("{FILL_MAX} messages, and {} stays at {before}", step.until)
    }
}

fn put(command: &mut Value, body: &[u8]) {
    match std::str::from_utf8(body) {
        Ok(text) => command["text"] = text.into(),
        Err(_) => command["base64"] = STANDARD.encode(body).into(),
    }
}

/// A frame of the golden vectors, by name.
fn frame(name: &str) -> Result<Vec<u8>> {
    let vectors: Value = serde_json::from_str(VECTORS).context("the vectors of a node's frames")?;
    let frames = vectors["frames"].as_array().context("vectors have frames")?;
    let found = frames.iter().find(|frame| frame["name"] == *name);
    let hex = found.and_then(|frame| frame["hex"].as_str()).with_context(|| format!("no vector is called {name}"))?;
    let digit = |at: usize| u8::from_str_radix(hex.get(at..at + 2).unwrap_or_default(), 16).context("hex digits");
    (0..hex.len()).step_by(2).map(digit).collect()
}
