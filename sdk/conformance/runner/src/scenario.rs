//! A scenario as it is written in a file. `../../scenarios/README.md` describes every step for those who write them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::transport::Transport;

/// Capabilities that a driver may have; `DRIVER.md` §6.
pub const CAPABILITIES: &[&str] = &[
    "fail-fast",
    "lazy",
    "token-provider",
    "endpoints",
    "pause",
    "after-offset",
    "queue",
    "window",
    "timeouts",
    "backoff",
    "read-positions",
];

/// What happens, in order.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// Name of the file, without its ending.
    #[serde(skip)]
    pub name: String,
    /// In a few words.
    pub title: String,
    /// What must hold, in a sentence.
    pub about: String,
    /// Capabilities without which a driver cannot take part.
    #[serde(default)]
    pub needs: Vec<String>,
    /// Transports over which it makes no sense, each with the reason in a sentence.
    #[serde(default)]
    pub not_over: BTreeMap<Transport, String>,
    /// The server that it plays on; without a word, one that it shares with others.
    #[serde(default)]
    pub server: ServerSpec,
    /// Channels that are there when it begins.
    #[serde(default)]
    pub channels: Vec<ChannelSpec>,
    /// What is done, each when the one before has its outcome.
    pub steps: Vec<Step>,
}

/// Which server.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ServerSpec {
    /// One of its own, which can be stopped and killed.
    pub own: bool,
    /// Control and data node as processes of their own. Implies `own`.
    pub apart: bool,
    /// `section.key` = value, as `--set` takes them. Implies `own`.
    pub settings: BTreeMap<String, String>,
}

impl ServerSpec {
    /// Whether no other scenario may use the same.
    pub fn is_own(&self) -> bool {
        self.own || self.apart || !self.settings.is_empty()
    }
}

/// A channel to be made.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChannelSpec {
    /// Its name.
    pub name: String,
    /// `group` or `broadcast`.
    #[serde(default = "group")]
    pub kind: String,
    /// `durable`, `windowed` or `none`.
    #[serde(default = "durable")]
    pub history: String,
    /// `disconnect` or `skip`.
    #[serde(default = "disconnect")]
    pub slow_consumer: String,
    /// Roles by user.
    pub members: BTreeMap<String, String>,
}

fn group() -> String {
    "group".into()
}

fn durable() -> String {
    "durable".into()
}

fn disconnect() -> String {
    "disconnect".into()
}

/// Fields that an answer or an event has; others do not matter.
pub type Pattern = Map<String, Value>;

/// Messages to send or publish: one text, several, or so many that the runner makes up.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Bodies {
    /// One.
    pub text: Option<String>,
    /// Several.
    pub texts: Option<Vec<String>>,
    /// Several, in base64.
    pub base64: Option<Vec<String>>,
    /// So many.
    pub count: Option<u32>,
    /// Made up to be so large.
    pub bytes: Option<usize>,
}

/// One step.
#[derive(Debug, Clone, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case")]
#[allow(missing_docs, reason = "scenarios/README.md describes them in one place")]
pub enum Step {
    // The client's part.
    Connect(Box<Connect>),
    Subscribe(Subscribe),
    Unsubscribe(OfChannel),
    Pause(OfChannel),
    Unpause(OfChannel),
    Send(Send),
    MarkRead(MarkRead),
    History(Box<History>),
    Close(Close),
    // Waiting for it.
    Await(Await),
    Event(Event),
    Read(Read),
    Reconnected(OfClient),
    SameSession(OfClient),
    Submitted(Submitted),
    // The application server's part.
    Publish(Publish),
    Fill(Fill),
    SetMember(SetMember),
    RemoveMember(RemoveMember),
    Archive(Archive),
    Revoke(Revoke),
    // The operator's part.
    Kill(OfNode),
    Stop(OfNode),
    Start(OfNode),
    // The network's part.
    Network(Network),
    Tamper(Tamper),
    Inject(Inject),
    Frames(Frames),
}

macro_rules! fields {
    ($($name:ident { $($field:tt)* })+) => {
        $(
            #[derive(Debug, Clone, Deserialize)]
            #[serde(deny_unknown_fields)]
            #[allow(missing_docs, reason = "scenarios/README.md describes them in one place")]
            pub struct $name { $($field)* }
        )+
    };
}

fields! {
    Connect {
        pub client: String,
        pub user: Option<String>,
        pub token: Option<String>,
        pub provider: Option<Vec<String>>,
        #[serde(default)]
        pub lazy: bool,
        #[serde(default)]
        pub dead_first: bool,
        #[serde(default)]
        pub options: Pattern,
        #[serde(rename = "as")]
        pub call: Option<String>,
        pub fails: Option<Pattern>,
    }
    Subscribe {
        pub client: String,
        pub channel: String,
        pub start: Option<Value>,
        #[serde(default)]
        pub paused: bool,
        #[serde(rename = "as")]
        pub call: Option<String>,
        pub finds: Option<Pattern>,
        pub fails: Option<Pattern>,
    }
    OfChannel { pub client: String, pub channel: String, }
    OfClient { pub client: String, }
    OfNode { pub node: Option<String>, }
    Send {
        pub client: String,
        pub channel: String,
        pub text: Option<String>,
        pub texts: Option<Vec<String>>,
        pub base64: Option<Vec<String>>,
        pub count: Option<u32>,
        pub bytes: Option<usize>,
        #[serde(rename = "as")]
        pub call: Option<String>,
        pub fails: Option<Pattern>,
    }
    History {
        pub client: String,
        pub channel: String,
        pub before: Option<u64>,
        pub after: Option<u64>,
        pub limit: Option<u32>,
        pub texts: Option<Vec<String>>,
        pub more: Option<bool>,
        pub fails: Option<Pattern>,
    }
    MarkRead {
        pub client: String,
        pub channel: String,
        pub position: Pattern,
        pub fails: Option<Pattern>,
    }
    Close { pub client: String, pub fails: Option<Pattern>, }
    Await { pub call: String, pub fails: Option<Pattern>, #[serde(default)] pub either: bool, }
    Event {
        pub client: String,
        pub channel: Option<String>,
        pub event: String,
        #[serde(default)]
        pub with: Pattern,
    }
    Read { pub client: String, pub channel: String, pub text: Option<String>, pub count: Option<usize>, }
    Submitted { pub call: String, pub count: usize, #[serde(default)] pub at_most: bool, }
    Publish {
        pub channel: String,
        pub user: String,
        pub text: Option<String>,
        pub texts: Option<Vec<String>>,
        pub base64: Option<Vec<String>>,
        pub count: Option<u32>,
        pub bytes: Option<usize>,
    }
    Fill { pub channel: String, pub user: String, pub bytes: usize, pub until: String, }
    SetMember { pub channel: String, pub user: String, pub role: String, }
    RemoveMember { pub channel: String, pub user: String, }
    Archive { pub channel: String, }
    Revoke { pub user: String, }
    Network { pub client: String, pub is: Condition, }
    Tamper { pub client: String, pub text: String, pub how: How, }
    Inject { pub client: String, pub vector: String, }
    Frames { pub client: String, pub frame: String, pub count: usize, }
}

/// What the network between one client and the server does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Condition {
    /// Connections that are open are reset; new ones go through.
    Cut,
    /// As `cut`, and new ones are reset, too.
    Down,
    /// New connections go through again.
    Up,
    /// What the server sends on connections that are open stays on the way.
    HoldAnswers,
    /// Nothing moves on connections that are open, in either direction.
    Hold,
    /// What was held goes on.
    Release,
    /// The client has another address from now on, as behind a router that forgot it. Its connections may go on.
    Move,
}

/// What a scenario does to what is between a client and the server, from nothing to most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Touch {
    /// Nothing to connections: at most it changes the client's address.
    Nothing,
    /// It cuts and holds connections.
    Connections,
    /// It does something with frames, or counts them.
    Frames,
}

/// What becomes of the next message with a text on its way to a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum How {
    /// It is lost.
    Drop,
    /// It comes twice.
    Double,
    /// It comes behind the next message.
    Swap,
}

impl Scenario {
    /// Reads one file.
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub fn load(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
        let name = path.file_stem().and_then(|stem| stem.to_str()).context("a scenario's file has a name")?;
        Self::parse(name, &text).with_context(|| path.display().to_string())
    }

    /// Reads every file of a folder, by name.
    ///
    /// # Errors
    /// If one cannot be read, or there is none.
    pub fn load_all(folder: &Path) -> Result<Vec<Self>> {
        let mut paths = Vec::new();
        for entry in std::fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "toml") {
                paths.push(path);
            }
        }
        paths.sort();
        ensure!(!paths.is_empty(), "{} has no scenarios", folder.display());
        paths.iter().map(|path| Self::load(path)).collect()
    }

    /// Reads the text of a file.
    ///
    /// # Errors
    /// If it is no scenario, or one that cannot be played: it names what it has not introduced, or ends a server that others use.
    pub fn parse(name: &str, text: &str) -> Result<Self> {
        let mut scenario: Self = toml::from_str(text)?;
        scenario.name = name.to_owned();
        scenario.check()?;
        Ok(scenario)
    }

    fn check(&self) -> Result<()> {
        for need in &self.needs {
            ensure!(CAPABILITIES.contains(&need.as_str()), "no capability is called {need}");
        }
        for (transport, reason) in &self.not_over {
            ensure!(reason.ends_with('.') && !reason.contains('|'), "why not over {transport}? In a sentence");
        }
        ensure!(self.not_over.len() < Transport::ALL.len(), "there is a transport that it is played over");
        let mut seen =
            Seen { scenario: self, clients: BTreeSet::new(), calls: BTreeSet::new(), texts: BTreeSet::new() };
        for (index, step) in self.steps.iter().enumerate() {
            seen.step(step).with_context(|| format!("step {}: {step:?}", index + 1))?;
        }
        Ok(())
    }

    /// What it does to what is between this client and the server.
    pub fn touch(&self, client: &str) -> Touch {
        let touches = self.steps.iter().filter_map(|step| match step {
            Step::Network(of) if of.client == client && of.is != Condition::Move => Some(Touch::Connections),
            Step::Tamper(Tamper { client: of, .. })
            | Step::Inject(Inject { client: of, .. })
            | Step::Frames(Frames { client: of, .. })
                if of == client =>
            {
                Some(Touch::Frames)
            }
            _ => None,
        });
        touches.max().unwrap_or(Touch::Nothing)
    }
}

/// What a scenario has introduced so far.
struct Seen<'a> {
    scenario: &'a Scenario,
    clients: BTreeSet<&'a str>,
    calls: BTreeSet<&'a str>,
    texts: BTreeSet<(&'a str, &'a str)>,
}

impl<'a> Seen<'a> {
    fn step(&mut self, step: &'a Step) -> Result<()> {
        match step {
            Step::Connect(step) => {
                ensure!(self.clients.insert(&step.client), "client {} is there already", step.client);
                ensure!(step.token.is_none() || step.provider.is_none(), "either token or provider");
                ensure!(step.provider.as_ref().is_none_or(|tokens| !tokens.is_empty()), "a provider has a token");
                self.needs("token-provider", step.provider.is_some())?;
                self.needs("lazy", step.lazy)?;
                self.needs("endpoints", step.dead_first)?;
                for option in step.options.keys() {
                    match option.split('_').next() {
                        Some("queue") => self.needs("queue", true)?,
                        Some("window") => self.needs("window", true)?,
                        // A driver without it is not told.
                        Some("backoff") => {}
                        Some(_) if option.ends_with("_timeout_ms") => self.needs("timeouts", true)?,
                        _ => bail!("no option is called {option}"),
                    }
                }
                self.call(step.call.as_deref())
            }
            Step::Subscribe(step) => {
                self.pair(&step.client, Some(&step.channel))?;
                self.needs("pause", step.paused)?;
                let after_offset = step.start.as_ref().is_some_and(|start| start.get("after_offset").is_some());
                self.needs("after-offset", after_offset)?;
                self.call(step.call.as_deref())
            }
            Step::Unsubscribe(of) => self.pair(&of.client, Some(&of.channel)),
            Step::Pause(of) | Step::Unpause(of) => {
                self.needs("pause", true)?;
                self.pair(&of.client, Some(&of.channel))
            }
            Step::Send(step) => {
                self.pair(&step.client, None)?;
                self.bodies(&step.channel, &step.bodies())?;
                self.call(step.call.as_deref())
            }
            Step::MarkRead(step) => {
                self.needs("read-positions", true)?;
                self.pair(&step.client, Some(&step.channel))
            }
            Step::History(step) => self.pair(&step.client, None),
            Step::Network(Network { client, is: Condition::Move }) => {
                let over_tcp =
                    [Transport::Ws, Transport::Wss].iter().any(|tcp| !self.scenario.not_over.contains_key(tcp));
                ensure!(!over_tcp, "a connection over TCP ends with its address: name ws and wss in `not_over`");
                let touch = self.scenario.touch(client);
                ensure!(touch == Touch::Nothing, "a client that moves is left alone with the server");
                self.pair(client, None)
            }
            Step::Close(Close { client, .. })
            | Step::Network(Network { client, .. })
            | Step::Inject(Inject { client, .. })
            | Step::Tamper(Tamper { client, .. })
            | Step::Frames(Frames { client, .. })
            | Step::Reconnected(OfClient { client })
            | Step::SameSession(OfClient { client }) => self.pair(client, None),
            Step::Event(step) if step.event == "unread" => {
                self.needs("read-positions", true)?;
                self.pair(&step.client, step.channel.as_deref())
            }
            Step::Event(step) => self.pair(&step.client, step.channel.as_deref()),
            Step::Read(step) => {
                ensure!(step.text.is_some() != step.count.is_some(), "either text or count");
                self.pair(&step.client, Some(&step.channel))
            }
            Step::Await(Await { call, .. }) | Step::Submitted(Submitted { call, .. }) => {
                ensure!(self.calls.contains(call.as_str()), "no call is called {call}");
                Ok(())
            }
            Step::Publish(step) => self.bodies(&step.channel, &step.bodies()),
            Step::Fill(step) => {
                ensure!(self.scenario.server.is_own(), "counters of a shared server count others, too");
                self.channel(&step.channel)
            }
            Step::SetMember(SetMember { channel, .. })
            | Step::RemoveMember(RemoveMember { channel, .. })
            | Step::Archive(Archive { channel }) => self.channel(channel),
            Step::Revoke(_) => Ok(()),
            Step::Kill(of) | Step::Stop(of) | Step::Start(of) => {
                ensure!(self.scenario.server.is_own(), "a server that others use must live");
                let node = of.node.as_deref().unwrap_or("dev");
                let nodes: &[&str] = if self.scenario.server.apart { &["control", "data"] } else { &["dev"] };
                ensure!(nodes.contains(&node), "no node is called {node}; there is {nodes:?}");
                Ok(())
            }
        }
    }

    fn needs(&self, capability: &str, is_used: bool) -> Result<()> {
        let is_named = self.scenario.needs.iter().any(|need| need == capability);
        ensure!(!is_used || is_named, "this needs the capability {capability}: name it in `needs`");
        Ok(())
    }

    fn call(&mut self, call: Option<&'a str>) -> Result<()> {
        if let Some(call) = call {
            ensure!(self.calls.insert(call), "call {call} is there already");
        }
        Ok(())
    }

    /// A client that is there. The channel may be one that does not exist: that, too, is a case.
    fn pair(&self, client: &str, channel: Option<&str>) -> Result<()> {
        ensure!(self.clients.contains(client), "no client is called {client}");
        ensure!(channel.is_none_or(|channel| !channel.is_empty()), "a channel has a name");
        Ok(())
    }

    fn channel(&self, name: &str) -> Result<()> {
        let is_known = self.scenario.channels.iter().any(|channel| channel.name == name);
        ensure!(is_known, "no channel is called {name}");
        Ok(())
    }

    /// Texts are told apart by what they say, so each comes once in a channel.
    fn bodies(&mut self, channel: &'a str, bodies: &Bodies) -> Result<()> {
        let given = [bodies.text.is_some(), bodies.texts.is_some(), bodies.base64.is_some(), bodies.count.is_some()];
        ensure!(given.iter().filter(|&&given| given).count() == 1, "one of text, texts, base64 and count");
        ensure!(bodies.bytes.is_none() || bodies.count.is_some(), "bytes goes with count");
        let scenario = self.scenario;
        let texts = scenario.steps.iter().filter_map(|step| match step {
            Step::Send(send) if send.channel == channel => Some((send.text.as_deref(), send.texts.as_deref())),
            Step::Publish(publish) if publish.channel == channel => {
                Some((publish.text.as_deref(), publish.texts.as_deref()))
            }
            _ => None,
        });
        if self.texts.iter().all(|(of, _)| *of != channel) {
            for text in
                texts.flat_map(|(text, texts)| text.into_iter().chain(texts.into_iter().flatten().map(|t| &**t)))
            {
                ensure!(self.texts.insert((channel, text)), "the text {text:?} comes twice in {channel}");
            }
        }
        Ok(())
    }
}

impl Send {
    /// What to send.
    pub fn bodies(&self) -> Bodies {
        let Self { text, texts, base64, count, bytes, .. } = self.clone();
        Bodies { text, texts, base64, count, bytes }
    }
}

impl Publish {
    /// What to publish.
    pub fn bodies(&self) -> Bodies {
        let Self { text, texts, base64, count, bytes, .. } = self.clone();
        Bodies { text, texts, base64, count, bytes }
    }
}

#[cfg(test)]
mod tests;
