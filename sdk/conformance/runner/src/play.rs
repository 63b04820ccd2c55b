//! Plays one scenario: tells the driver what its clients do, does what everybody else does, and waits for what must come.

mod steps;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::driver::{Driver, Link, OnEvent};
use crate::judge::{Facts, Stored, incomplete, judge};
use crate::ledger::{Of, Position, SendOutcome};
use crate::proxy::Proxy;
use crate::scenario::{Bodies, Pattern, Scenario};
use crate::transcript::{Entry, Shared};
use crate::transport::Transport;
use crate::trust::Trust;
use crate::world::World;

/// How long what is written behind may take.
const WRITE_BEHIND: Duration = Duration::from_secs(5);
/// Between two looks at what is stored.
const LOOK: Duration = Duration::from_millis(50);
/// How many faults are shown of a scenario that failed: one is often the cause of many.
const FAULTS_SHOWN: usize = 10;
/// How many lines are shown of a scenario that failed.
const LINES_SHOWN: usize = 40;

/// How it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Everything held.
    Passed,
    /// The driver lacks these capabilities.
    NotSupported(Vec<String>),
    /// What did not hold, and what led to it.
    Failed {
        /// Each in a sentence.
        faults: Vec<String>,
        /// The end of the transcript, of the driver's standard error and of the server's log.
        detail: String,
    },
}

/// How clients reach the server.
#[derive(Clone)]
pub struct Over {
    /// By what.
    pub transport: Transport,
    /// Whom everybody trusts.
    pub trust: Arc<Trust>,
}

/// Plays a scenario with the driver that `start` starts. No wait takes longer than `patience`.
///
/// # Errors
/// If the driver does not start; what it does wrong afterwards is an [`Outcome`].
pub fn play(
    scenario: &Scenario,
    world: Arc<dyn World>,
    over: &Over,
    patience: Duration,
    start: impl FnOnce(OnEvent) -> Result<Driver>,
) -> Result<Outcome> {
    let providers = Providers::default();
    let mut driver = start(providers.answer(world.clone()))?;
    let missing: Vec<String> =
        scenario.needs.iter().filter(|need| !driver.capabilities.contains(need)).cloned().collect();
    if !missing.is_empty() {
        return Ok(Outcome::NotSupported(missing));
    }
    let mut player = Player {
        link: driver.link(),
        transcript: driver.transcript(),
        capabilities: driver.capabilities.clone(),
        world: world.clone(),
        over: over.clone(),
        providers,
        proxies: BTreeMap::new(),
        calls: BTreeMap::new(),
        cursors: BTreeMap::new(),
        sessions: BTreeMap::new(),
        facts: Facts::default(),
        newest: BTreeMap::new(),
        bodies: 0,
        patience,
    };
    let played = player.all(scenario).and_then(|()| player.settle()).and_then(|()| player.close_all());
    let ended = driver.finish();
    let mut faults: Vec<String> = Vec::new();
    let mut facts = std::mem::take(&mut player.facts);
    // Whoever failed half-way is not blamed for what the rest would have explained.
    match (played.and(ended), player.stored()) {
        (Ok(()), Ok(stored)) => {
            facts.stored = stored;
            faults.extend(judge(&player.transcript.lock(), &facts).iter().map(ToString::to_string));
        }
        (Ok(()), Err(error)) => faults.push(format!("what is stored cannot be read: {error:#}")),
        (Err(error), _) => {
            faults.push(format!("{error:#}"));
            faults.extend(player.transcript.lock().ledger.faults.iter().map(ToString::to_string));
        }
    }
    if faults.is_empty() {
        return Ok(Outcome::Passed);
    }
    let more = faults.len().saturating_sub(FAULTS_SHOWN);
    if more > 0 {
        faults.truncate(FAULTS_SHOWN);
        faults.push(format!("and {more} more"));
    }
    let transcript = player.transcript.lock();
    let skipped = transcript.entries.len().saturating_sub(LINES_SHOWN);
    let mut detail = String::new();
    for (entry, at) in transcript.entries.iter().zip(&transcript.times).skip(skipped) {
        detail.push_str(&format!("  {:7.3} {entry}\n", at.as_secs_f32()));
    }
    detail.push_str(&format!("driver's standard error:\n{}\nserver's log:\n{}\n", driver.stderr(), world.log()));
    Ok(Outcome::Failed { faults, detail })
}

/// Answers to the questions of token providers, by client: the user, and a kind for each question; the last one goes on for ever.
#[derive(Clone, Default)]
struct Providers(Arc<Mutex<BTreeMap<String, Provider>>>);

/// The user, and what each question is answered with.
type Provider = (String, Vec<String>);

impl Providers {
    /// Answers on the thread that reads the driver, so that a wait for something else does not stand in the way.
    fn answer(&self, world: Arc<dyn World>) -> OnEvent {
        let providers = self.0.clone();
        Box::new(move |link: &Link, event: &Value| {
            if event["event"] != "token_wanted" {
                return;
            }
            let (client, ask) = (event["client"].as_str().unwrap_or_default(), event["ask"].as_u64().unwrap_or(1));
            let provider = providers.lock().expect("no holder panics").get(client).cloned();
            let Some((user, kinds)) = provider else { return };
            let index = usize::try_from(ask).unwrap_or(1).saturating_sub(1).min(kinds.len() - 1);
            let mut command = json!({ "command": "token", "client": client, "ask": ask });
            match kinds[index].as_str() {
                "error" => command["error"] = "the sign-in service is not there".into(),
                kind => match world.token(&user, kind) {
                    Ok(token) => command["token"] = token.into(),
                    Err(error) => command["error"] = format!("{error:#}").into(),
                },
            }
            // A driver that has gone says so elsewhere.
            let _ = link.command(command);
        })
    }
}

/// One command whose end is waited for later.
type Call = Vec<u64>;

struct Player {
    link: Link,
    transcript: Shared,
    capabilities: Vec<String>,
    world: Arc<dyn World>,
    over: Over,
    providers: Providers,
    proxies: BTreeMap<String, Proxy>,
    calls: BTreeMap<String, Call>,
    /// Up to where each kind of event of each client and channel has been waited for.
    cursors: BTreeMap<(String, String, String), usize>,
    /// How many sessions of each client the scenario knows of.
    sessions: BTreeMap<String, usize>,
    facts: Facts,
    /// The newest message that the runner published to each channel.
    newest: BTreeMap<String, Position>,
    /// Bodies made up so far.
    bodies: u64,
    patience: Duration,
}

impl Player {
    fn all(&mut self, scenario: &Scenario) -> Result<()> {
        for (index, step) in scenario.steps.iter().enumerate() {
            self.step(scenario, step).with_context(|| format!("step {}, {step:?}", index + 1))?;
        }
        Ok(())
    }

    fn note(&self, note: String) {
        self.transcript.push(Entry::Note(note));
    }

    fn deadline(&self) -> Instant {
        Instant::now() + self.patience
    }

    /// Waits for the answer to one command.
    fn answer(&self, id: u64) -> Result<Value> {
        self.transcript
            .wait(self.deadline(), |transcript| transcript.ledger.answers.get(&id).cloned())
            .map_err(|why| anyhow::anyhow!("no answer to command {id}: {why}"))
    }

    /// Waits for the answer and compares it with what is expected.
    fn outcome(&self, id: u64, fails: Option<&Pattern>) -> Result<Value> {
        let answer = self.answer(id)?;
        let is_done = answer["event"] == "done";
        match fails {
            None => ensure!(is_done, "it failed: {}", answer["error"]),
            Some(_) if is_done => bail!("it should have failed, but {answer}"),
            Some(pattern) => {
                ensure!(fits(pattern, &answer["error"]), "it failed with {}, not with {pattern:?}", answer["error"]);
            }
        }
        Ok(answer)
    }

    /// One command and its end; or, if it has a name, only its beginning.
    fn call(&mut self, command: Value, name: Option<&String>, fails: Option<&Pattern>) -> Result<Option<Value>> {
        let id = self.link.command(command)?;
        match name {
            Some(name) => {
                self.calls.insert(name.clone(), vec![id]);
                Ok(None)
            }
            None => self.outcome(id, fails).map(Some),
        }
    }

    fn call_ids(&self, name: &str) -> Result<Call> {
        self.calls.get(name).cloned().with_context(|| format!("no call is called {name}"))
    }

    fn proxy(&self, client: &str) -> Result<&Proxy> {
        self.proxies.get(client).with_context(|| format!("no client is called {client}"))
    }

    /// Waits for the next such event that no step has waited for before. `None` as channel is any.
    fn event(&mut self, client: &str, channel: Option<&str>, name: &str, with: &Pattern) -> Result<()> {
        let key = (client.to_owned(), channel.unwrap_or_default().to_owned(), name.to_owned());
        let from = self.cursors.get(&key).copied().unwrap_or(0);
        let is_it = |event: &Value| {
            event["event"] == *name
                && event["client"] == *client
                && channel.is_none_or(|channel| event["channel"] == *channel)
                && fits(with, event)
        };
        let mut next = from;
        let found = self.transcript.wait(self.deadline(), |transcript| {
            while next < transcript.entries.len() {
                next += 1;
                if matches!(&transcript.entries[next - 1], Entry::Event(event) if is_it(event)) {
                    return Some(next - 1);
                }
            }
            None
        });
        let index = found.map_err(|why| anyhow::anyhow!("no such event: {why}"))?;
        self.cursors.insert(key, index + 1);
        self.facts.explained.insert(index);
        Ok(())
    }

    /// What to send, made up where the scenario leaves that to us: text of several scripts, each with a number of its own.
    fn bodies(&mut self, bodies: &Bodies) -> Result<Vec<Vec<u8>>> {
        if let Some(text) = &bodies.text {
            return Ok(vec![text.clone().into_bytes()]);
        }
        if let Some(texts) = &bodies.texts {
            return Ok(texts.iter().map(|text| text.clone().into_bytes()).collect());
        }
        if let Some(base64) = &bodies.base64 {
            return base64.iter().map(|one| STANDARD.decode(one).context("a body in base64")).collect();
        }
        let count = bodies.count.unwrap_or(0);
        Ok((0..count).map(|_| self.made_up(bodies.bytes.unwrap_or(0))).collect())
    }

    fn made_up(&mut self, bytes: usize) -> Vec<u8> {
        self.bodies += 1;
        let mut body = format!("{} – Größe, Привет, 世界, 🌍", self.bodies).into_bytes();
        // Letters that a client's transport cannot compress away: some scenarios fill a queue with them.
        let mut state = self.bodies.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        body.resize_with(body.len().max(bytes), || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            b'0' + (state >> 58) as u8
        });
        body
    }

    /// Everything asked has its answer, and every subscription has read what is stored.
    fn settle(&mut self) -> Result<()> {
        for ids in std::mem::take(&mut self.calls).into_values() {
            for id in ids {
                self.answer(id)?;
            }
        }
        let stored = self.stored()?;
        let deadline = self.deadline();
        let settled =
            self.transcript.wait(deadline, |transcript| incomplete(transcript, &stored).is_none().then_some(()));
        if let Err(why) = settled {
            let fault = incomplete(&self.transcript.lock(), &stored);
            bail!("{}: {why}", fault.map_or_else(|| "not settled".into(), |fault| fault.to_string()));
        }
        Ok(())
    }

    /// What is stored, once all is that is known to be: a windowed channel is written behind.
    fn stored(&self) -> Result<BTreeMap<String, Vec<Stored>>> {
        let deadline = Instant::now() + WRITE_BEHIND.min(self.patience);
        loop {
            let stored = self.world.stored()?;
            let head = |channel: &String| stored.get(channel).map(|all| all.last().map(|last| last.position));
            let is_whole =
                self.known().iter().all(|(channel, known)| head(channel).is_none_or(|head| head >= Some(*known)));
            if is_whole || Instant::now() >= deadline {
                return Ok(stored);
            }
            std::thread::sleep(LOOK);
        }
    }

    /// The newest message of each channel that somebody said is there.
    fn known(&self) -> BTreeMap<String, Position> {
        let mut known = self.newest.clone();
        let transcript = self.transcript.lock();
        let read = transcript.ledger.read.iter().map(|read| (&read.of.1, read.position));
        let acknowledged = transcript.ledger.sent.iter().filter_map(|sent| match sent.outcome {
            Some(SendOutcome::Done(position)) => Some((&sent.of.1, position)),
            _ => None,
        });
        for (channel, position) in read.chain(acknowledged) {
            let newest = known.entry(channel.clone()).or_insert(position);
            *newest = position.max(*newest);
        }
        known
    }

    /// Ends every client that the scenario left open.
    fn close_all(&mut self) -> Result<()> {
        let open: BTreeSet<String> = self.proxies.keys().cloned().collect();
        for client in open {
            let closed = self.transcript.lock().entries.iter().any(|entry| match entry {
                Entry::Command(command) => command["command"] == "close" && command["client"] == *client,
                Entry::Event(event) => event["client"] == *client && event["state"] == "closed",
                Entry::Note(_) => false,
            });
            if !closed && self.facts.users.contains_key(&client) {
                let id = self.link.command(json!({ "command": "close", "client": client }))?;
                self.outcome(id, None).with_context(|| format!("close {client} at the end"))?;
            }
        }
        Ok(())
    }

    fn read_by(&self, of: &Of) -> usize {
        self.transcript.lock().ledger.subscriptions.get(of).map_or(0, |subscription| subscription.read)
    }
}

/// Whether a value has every field of the pattern; an inner object is a pattern, too, and of a list one is enough.
fn fits(pattern: &Pattern, value: &Value) -> bool {
    pattern.iter().all(|(field, expected)| match (expected, &value[field]) {
        (Value::Object(inner), found) => fits(inner, found),
        (Value::Array(any), found) => any.contains(found),
        (expected, found) => expected == found,
    })
}
