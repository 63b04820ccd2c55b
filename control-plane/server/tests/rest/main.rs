//! The REST API through a real socket, over a store in memory. One file per behaviour; this one is the world that they act in.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod auth;
mod channels;
mod console;
mod documents;
#[allow(dead_code, reason = "the tests of the control link use the rest of it")]
mod faulty;
mod idempotency;
mod inspect;
mod members;
mod messages;
mod nodes;
mod pagination;
mod plane;
mod problems;
mod reads;
mod shutdown;
mod sign_in_codes;
mod signing_keys;
mod tokens;
mod unknown;
mod users;
mod webhooks;

use std::sync::Arc;
use std::time::{Duration, Instant};

use millrace_control::{DataPlane, RestConfig, RestServer, WebhookConfig, Webhooks, serve_rest};
use millrace_store::{Store, open_memory};
use prometheus::Registry;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::faulty::FaultyStore;
use crate::plane::FakePlane;

const OPERATOR: &str = "an-operator-key-of-forty-characters-here";

/// A server with one tenant, `acme`, and its API key.
struct World {
    runtime: Runtime,
    server: Option<RestServer>,
    store: Arc<dyn Store>,
    plane: Arc<FakePlane>,
    base: String,
    agent: ureq::Agent,
    /// Number of the tenant.
    tenant: u64,
    /// The API key of the tenant.
    api: String,
}

impl World {
    fn new() -> Self {
        Self::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut RestConfig)) -> Self {
        let plane = Arc::new(FakePlane::default());
        Self::over(open_memory(), plane.clone(), plane, change)
    }

    /// With webhooks that are delivered so.
    fn telling(config: WebhookConfig) -> Self {
        let plane = Arc::new(FakePlane::default());
        Self::assemble(open_memory(), plane.clone(), plane, Telling::By(config), |_| {})
    }

    /// Over a store whose commits meet their fates.
    fn faulty() -> (Self, Arc<FaultyStore>) {
        let (store, plane) = (FaultyStore::new(), Arc::new(FakePlane::default()));
        (Self::over(store.clone(), plane.clone(), plane, |_| {}), store)
    }

    fn over(
        store: Arc<dyn Store>,
        data_plane: Arc<dyn DataPlane>,
        plane: Arc<FakePlane>,
        change: impl FnOnce(&mut RestConfig),
    ) -> Self {
        Self::assemble(store, data_plane, plane, Telling::By(WebhookConfig::default()), change)
    }

    fn assemble(
        store: Arc<dyn Store>,
        data_plane: Arc<dyn DataPlane>,
        plane: Arc<FakePlane>,
        telling: Telling,
        change: impl FnOnce(&mut RestConfig),
    ) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let mut config = RestConfig {
            listen: "127.0.0.1:0".parse().unwrap(),
            operator_key: Some(OPERATOR.into()),
            ..RestConfig::default()
        };
        change(&mut config);
        let registry = Registry::new();
        let server = runtime.block_on(async {
            let webhooks = match telling {
                Telling::By(config) => Webhooks::start(store.clone(), config, &registry).await.unwrap(),
                Telling::Begun(webhooks) => webhooks,
            };
            serve_rest(config, store.clone(), data_plane, webhooks, registry).await.unwrap()
        });
        let base = format!("http://{}", server.address());
        let agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .allow_non_standard_methods(true)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .build()
            .into();
        let mut world =
            Self { runtime, server: Some(server), store, plane, base, agent, tenant: 0, api: String::new() };
        (world.tenant, world.api) = world.tenant("acme");
        world
    }

    /// Makes another tenant; gives its number and an API key.
    fn tenant(&self, name: &str) -> (u64, String) {
        let tenant = self.post("/v1/tenants", OPERATOR, &json!({"name": name})).expect(201);
        let key = self.post("/v1/keys", OPERATOR, &json!({"tenant": name})).expect(201);
        (tenant["id"].as_u64().unwrap(), text(&key["key"]))
    }

    /// An access token of a user of the tenant.
    fn token(&self, user: &str) -> String {
        text(&self.post("/v1/tokens", &self.api, &json!({"user": user})).expect(201)["token"])
    }

    /// A group with these members.
    fn group(&self, name: &str, members: &[(&str, &str)]) -> Value {
        let members: Vec<_> = members.iter().map(|(user, role)| json!({"user": user, "role": role})).collect();
        let draft = json!({"name": name, "kind": "group", "members": members});
        self.post("/v1/channels", &self.api, &draft).expect(201)
    }

    fn request(&self, method: &str, path: &str) -> Call<'_> {
        let builder = ureq::http::Request::builder().method(method).uri(format!("{}{path}", self.base));
        Call { world: self, builder, body: Vec::new() }
    }

    fn get(&self, path: &str, credential: &str) -> Answer {
        self.request("GET", path).bearer(credential).send()
    }

    fn delete(&self, path: &str, credential: &str) -> Answer {
        self.request("DELETE", path).bearer(credential).send()
    }

    fn post(&self, path: &str, credential: &str, body: &Value) -> Answer {
        self.request("POST", path).bearer(credential).json(body).send()
    }

    fn put(&self, path: &str, credential: &str, body: &Value) -> Answer {
        self.request("PUT", path).bearer(credential).json(body).send()
    }

    fn patch(&self, path: &str, credential: &str, body: &Value) -> Answer {
        self.request("PATCH", path).bearer(credential).json(body).send()
    }
}

/// Who tells webhooks.
enum Telling {
    By(WebhookConfig),
    Begun(Webhooks),
}

/// A request under construction.
struct Call<'a> {
    world: &'a World,
    builder: ureq::http::request::Builder,
    body: Vec<u8>,
}

impl Call<'_> {
    fn header(mut self, name: &str, value: &str) -> Self {
        self.builder = self.builder.header(name, value);
        self
    }

    fn bearer(self, credential: &str) -> Self {
        self.header("authorization", &format!("Bearer {credential}"))
    }

    fn json(self, body: &Value) -> Self {
        self.header("content-type", "application/json").bytes(body.to_string().into_bytes())
    }

    fn bytes(mut self, body: Vec<u8>) -> Self {
        self.body = body;
        self
    }

    fn send(self) -> Answer {
        let request = self.builder.body(self.body).unwrap();
        let mut response = self.world.agent.run(request).unwrap();
        let bytes = response.body_mut().read_to_vec().unwrap();
        let text = String::from_utf8(bytes).unwrap();
        Answer { status: response.status().as_u16(), headers: response.headers().clone(), text }
    }
}

/// What came back.
#[derive(Debug)]
struct Answer {
    status: u16,
    headers: ureq::http::HeaderMap,
    text: String,
}

impl Answer {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    fn body(&self) -> Value {
        if self.text.is_empty() { Value::Null } else { serde_json::from_str(&self.text).expect(&self.text) }
    }

    #[track_caller]
    fn expect(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{self:?}");
        self.body()
    }

    /// Checks that it is a problem of a kind, whole in every part.
    #[track_caller]
    fn problem(&self, status: u16, slug: &str) -> Value {
        let body = self.expect(status);
        assert_eq!(self.header("content-type"), "application/problem+json");
        assert_eq!(body["type"], format!("/problems/{slug}"), "{body}");
        assert_eq!(body["status"], status);
        assert_eq!(body["instance"], format!("urn:millrace:request:{}", self.header("x-request-id")));
        assert!(body["title"].is_string() && body["detail"].is_string());
        body
    }

    /// Checks that these fields, and no others, are named as wrong.
    #[track_caller]
    fn wrong_fields(&self, fields: &[&str]) {
        let body = self.problem(422, "validation");
        let found: Vec<_> = body["errors"].as_array().unwrap().iter().map(|error| text(&error["field"])).collect();
        assert_eq!(found, fields, "{body}");
    }
}

/// Waits for what another thread brings about; fails instead of waiting for ever.
#[track_caller]
fn until(mut happened: impl FnMut() -> bool) {
    let give_up_at = Instant::now() + Duration::from_secs(20);
    while !happened() {
        assert!(Instant::now() < give_up_at, "it never happened");
        std::thread::yield_now();
    }
}

#[track_caller]
fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("{value} is no string")).to_owned()
}
