//! A scenario's own tenant on a real server: nobody else's names, users or keys are in its way.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use millrace_protocol::client::{ClientBody, ClientFrame, Hello, ServerBody, VERSION, decode_server, encode_client};
use millrace_protocol::id::{TenantId, UserId};
use millrace_protocol::node::KeyAlgorithm;
use millrace_protocol::ws;
use millrace_token::{Claims, SigningKey};
use serde_json::{Value, json};

use crate::judge::Stored;
use crate::ledger::{Position, body};
use crate::rest::{Rest, segment};
use crate::scenario::{ChannelSpec, Scenario};
use crate::server::{Addresses, Server};
use crate::transport::Transport;
use crate::world::{Act, World};

/// How long a new key may take to reach the data node.
const PATIENCE: Duration = Duration::from_secs(20);
/// Between two tries.
const RETRY: Duration = Duration::from_millis(20);
const PAGE: usize = 100;

/// See the module.
pub struct Tenant {
    server: Arc<Mutex<Server>>,
    addresses: Addresses,
    id: TenantId,
    key: String,
    signing: SigningKey,
    forging: SigningKey,
    signing_id: String,
    channels: Vec<ChannelSpec>,
    number: AtomicU64,
}

impl Tenant {
    /// Makes the tenant, its keys, and the scenario's channels, and waits until the server takes its tokens.
    ///
    /// # Errors
    /// If the server refuses any of it.
    pub fn new(server: Arc<Mutex<Server>>, scenario: &Scenario) -> Result<Self> {
        let (api, operator_key, addresses) = {
            let server = server.lock().expect("no holder panics");
            (server.told("api")?, server.operator_key(), server.addresses())
        };
        let operator = Rest::new(&api, &operator_key);
        let nanos = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        let mut name = format!("{}-{nanos:x}", scenario.name);
        name.truncate(60);
        let tenant = operator.must("POST", "/v1/tenants", Some(&json!({ "name": name })))?;
        let id =
            tenant["id"].as_u64().and_then(|id| TenantId::new(u32::try_from(id).ok()?)).context("a tenant's id")?;
        let key = operator.must("POST", "/v1/keys", Some(&json!({ "tenant": name, "label": "conformance" })))?;
        let key = key["key"].as_str().context("an API key")?.to_owned();

        let rest = Rest::new(&api, &key);
        let generate = || SigningKey::generate(KeyAlgorithm::Hs256).context("make a signing key");
        let (signing, forging) = (generate()?, generate()?);
        let secret = STANDARD.encode(signing.to_bytes());
        let made = rest.must("POST", "/v1/signing-keys", Some(&json!({ "algorithm": "HS256", "key": secret })))?;
        let signing_id = made["id"].as_str().context("a signing key's id")?.to_owned();
        for ChannelSpec { name, kind, history, slow_consumer, members } in &scenario.channels {
            let members: Vec<Value> =
                members.iter().map(|(user, role)| json!({ "user": user, "role": role })).collect();
            let channel = json!({
                "name": name, "kind": kind, "history": history, "slow_consumer": slow_consumer, "members": members,
            });
            rest.must("POST", "/v1/channels", Some(&channel))?;
        }
        let channels = scenario.channels.clone();
        let number = AtomicU64::new(1);
        let tenant = Self { server, addresses, id, key, signing, forging, signing_id, channels, number };
        tenant.until_admitted()?;
        Ok(tenant)
    }

    fn rest(&self) -> Result<Rest> {
        let api = self.server.lock().expect("no holder panics").told("api")?;
        Ok(Rest::new(&api, &self.key))
    }

    /// A number that nothing else here has.
    fn number(&self) -> u64 {
        self.number.fetch_add(1, Ordering::Relaxed)
    }

    /// The data node hears of new keys a moment after they are made.
    fn until_admitted(&self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let token = self.token("probe", "1h")?;
            let address = self.addresses.of(Transport::Ws).context("the server listens")?;
            match admitted(address, &token) {
                Ok(()) => return Ok(()),
                Err(error) if Instant::now() >= deadline => return Err(error.context("the server takes no token")),
                Err(_) => std::thread::sleep(RETRY),
            }
        }
    }

    fn sign(&self, key: &SigningKey, user: &str, issued_at_ms: i64, life: Duration) -> Result<String> {
        let claims = Claims {
            tenant: self.id,
            user: UserId::new(user).with_context(|| format!("{user:?} is a user"))?,
            issued_at_ms,
            expires_at_ms: issued_at_ms + i64::try_from(life.as_millis())?,
            id: format!("conformance-{}", self.number()),
            roles: Vec::new(),
            device: None,
        };
        key.sign(&self.signing_id, &claims).context("sign a token")
    }

    fn stored_in(&self, rest: &Rest, channel: &str) -> Result<Vec<Stored>> {
        let mut all: Vec<Stored> = Vec::new();
        loop {
            let after = all.last().map_or(0, |last| last.position.offset);
            let path = format!("/v1/channels/{}/messages?after={after}&limit={PAGE}", segment(channel));
            let page = rest.must("GET", &path, None)?;
            let messages = page["messages"].as_array().context("a page has messages")?;
            for message in messages {
                let mut message = message.clone();
                message["base64"] = message["data_base64"].take();
                let number = |field: &str| message[field].as_u64().context("a number");
                all.push(Stored {
                    position: Position { epoch: number("epoch")?, offset: number("offset")? },
                    user: message["user"].as_str().context("a user")?.to_owned(),
                    body: body(&message).context("a body")?,
                    time_ms: message["time_ms"].as_i64().context("a time")?,
                });
            }
            if messages.is_empty() {
                return Ok(all);
            }
        }
    }
}

impl World for Tenant {
    fn address(&self, transport: Transport) -> Option<SocketAddr> {
        self.addresses.of(transport)
    }

    fn token(&self, user: &str, kind: &str) -> Result<String> {
        let hour = Duration::from_secs(3600);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).context("the clock")?;
        let now_ms = i64::try_from(now.as_millis())?;
        match (kind, kind.split_once(':')) {
            ("expired", _) => self.sign(&self.signing, user, now_ms - 7_200_000, hour),
            ("forged", _) => self.sign(&self.forging, user, now_ms, hour),
            (_, Some(("of", other))) => self.sign(&self.signing, other, now_ms, hour),
            _ => {
                let life = humantime::parse_duration(kind).with_context(|| format!("no token is {kind:?}"))?;
                self.sign(&self.signing, user, now_ms, life)
            }
        }
    }

    fn publish(&self, channel: &str, user: &str, body: &[u8]) -> Result<Option<Position>> {
        let mut message = json!({ "user": user });
        match std::str::from_utf8(body) {
            Ok(text) => message["text"] = text.into(),
            Err(_) => message["data_base64"] = STANDARD.encode(body).into(),
        }
        let path = format!("/v1/channels/{}/messages", segment(channel));
        let placed = self.rest()?.once("POST", &path, &format!("publish-{}", self.number()), &message)?;
        let position = |offset| Some(Position { epoch: placed["epoch"].as_u64()?, offset });
        Ok(placed["offset"].as_u64().and_then(position))
    }

    fn stored(&self) -> Result<BTreeMap<String, Vec<Stored>>> {
        let rest = self.rest()?;
        let kept = self.channels.iter().filter(|channel| channel.history != "none");
        kept.map(|channel| Ok((channel.name.clone(), self.stored_in(&rest, &channel.name)?))).collect()
    }

    fn act(&self, act: &Act<'_>) -> Result<()> {
        let lock = || self.server.lock().expect("no holder panics");
        match *act {
            Act::SetMember { channel, user, role } => {
                let members = format!("/v1/channels/{}/members", segment(channel));
                let rest = self.rest()?;
                let one = format!("{members}/{}", segment(user));
                if rest.find("PATCH", &one, Some(&json!({ "role": role })))?.is_none() {
                    rest.must("POST", &members, Some(&json!({ "user": user, "role": role })))?;
                }
            }
            Act::RemoveMember { channel, user } => {
                let path = format!("/v1/channels/{}/members/{}", segment(channel), segment(user));
                self.rest()?.must("DELETE", &path, None)?;
            }
            Act::Archive { channel } => {
                self.rest()?.must("DELETE", &format!("/v1/channels/{}", segment(channel)), None)?;
            }
            Act::Revoke { user } => {
                self.rest()?.must("POST", "/v1/tokens/revoke", Some(&json!({ "user": user })))?;
            }
            Act::Kill { node } => lock().kill(node)?,
            Act::Stop { node } => lock().stop(node)?,
            Act::Start { node } => lock().begin(node)?,
        }
        Ok(())
    }

    fn counter(&self, name: &str) -> Result<f64> {
        let admin = self.server.lock().expect("no holder panics").told("admin")?;
        let text = ureq::get(format!("{admin}/metrics")).call().context("read metrics")?.body_mut().read_to_string()?;
        let values: Vec<f64> = text
            .lines()
            .filter(|line| line.split(['{', ' ']).next() == Some(name))
            .filter_map(|line| line.rsplit(' ').next()?.parse().ok())
            .collect();
        ensure!(!values.is_empty(), "no counter is called {name}");
        Ok(values.iter().sum())
    }

    fn log(&self) -> String {
        self.server.lock().expect("no holder panics").log()
    }
}

/// Says hello with a token, and hears welcome. No SDK is asked: none of them is the judge of the others.
fn admitted(address: SocketAddr, token: &str) -> Result<()> {
    let mut stream = TcpStream::connect(address).context("connect")?;
    stream.set_read_timeout(Some(PATIENCE)).context("set a timeout")?;
    let head = format!(
        "GET /v1/connect HTTP/1.1\r\nhost: {address}\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\nsec-websocket-protocol: millrace.v1\r\n\r\n"
    );
    let mut out = head.into_bytes();
    let hello = Hello {
        version_min: VERSION,
        version_max: VERSION,
        features: 0,
        token,
        agent: "millrace-conformance",
        subscriptions: Vec::new(),
    };
    let mut frame = Vec::new();
    encode_client(&ClientFrame { request: 1, body: ClientBody::Hello(hello) }, &mut frame);
    ws::encode::frame(ws::Opcode::Binary, &frame, Some([0; 4]), &mut out);
    stream.write_all(&out).context("say hello")?;
    let mut units = crate::proxy::Frames::default();
    let mut input = [0; 4096];
    loop {
        let count = stream.read(&mut input).context("hear an answer")?;
        ensure!(count > 0, "the server closed the connection");
        for unit in units.feed(&input[..count]) {
            match unit.payload.as_deref().map(decode_server) {
                Some(Ok(frame)) if matches!(frame.body, ServerBody::Welcome(_)) => return Ok(()),
                Some(Ok(frame)) => bail!("the server answered {:?}", frame.body),
                _ => {}
            }
        }
    }
}
