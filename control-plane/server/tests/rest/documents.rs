//! What the server says of itself: OpenAPI, the page for people, health, metrics.

use std::collections::BTreeSet;

use millrace_control::ensure_dev;
use serde_json::{Value, json};

use crate::{OPERATOR, World, text};

const METHODS: [&str; 5] = ["get", "post", "put", "patch", "delete"];

fn operations(document: &Value) -> Vec<(String, String, &Value)> {
    let paths = document["paths"].as_object().unwrap().iter();
    paths
        .flat_map(|(path, item)| {
            let methods = item.as_object().unwrap().iter().filter(|(method, _)| METHODS.contains(&method.as_str()));
            methods.map(move |(method, operation)| (path.clone(), method.clone(), operation))
        })
        .collect()
}

/// Calls `visit` with every value of the document.
fn walk<'a>(value: &'a Value, visit: &mut impl FnMut(&'a Value)) {
    visit(value);
    match value {
        Value::Array(items) => items.iter().for_each(|item| walk(item, visit)),
        Value::Object(members) => members.values().for_each(|member| walk(member, visit)),
        _ => {}
    }
}

#[test]
fn the_openapi_document_is_whole() {
    let world = World::new();
    let answer = world.request("GET", "/v1/openapi.json").send();
    let document = answer.expect(200);
    assert!(text(&document["openapi"]).starts_with("3.1."));
    let operations = operations(&document);
    assert!(operations.len() >= 30, "{}", operations.len());

    let mut ids = BTreeSet::new();
    let schemes = document["components"]["securitySchemes"].as_object().unwrap();
    for (path, method, operation) in &operations {
        let id = text(&operation["operationId"]);
        assert!(ids.insert(id.clone()), "{id} twice");
        assert!(!text(&operation["summary"]).is_empty(), "{id} has no summary");
        assert_eq!(operation["tags"].as_array().unwrap().len(), 1, "{id}");
        assert!(operation["responses"]["default"]["content"]["application/problem+json"].is_object(), "{id}");
        assert!(operation["responses"].as_object().unwrap().keys().any(|status| status.starts_with('2')), "{id}");
        let parameters = operation["parameters"].as_array().cloned().unwrap_or_default();
        let named = |place: &str| -> BTreeSet<String> {
            parameters
                .iter()
                .filter(|parameter| parameter["in"] == place)
                .map(|parameter| text(&parameter["name"]))
                .collect()
        };
        let in_path = path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}')).map(str::to_owned);
        assert_eq!(named("path"), in_path.collect(), "{id}");
        assert_eq!(named("header").contains("Idempotency-Key"), method == "post", "{id}");
        for names in operation["security"].as_array().into_iter().flatten() {
            assert!(names.as_object().unwrap().keys().all(|name| schemes.contains_key(name)), "{id}");
        }
        if ["post", "put", "patch"].contains(&method.as_str()) {
            assert!(operation["requestBody"]["content"]["application/json"]["schema"].is_object(), "{id}");
        }
    }
    let body = |name: &str| &document["components"]["schemas"][name]["additionalProperties"];
    assert_eq!(
        (body("CreateChannel"), body("MemberDraft"), body("Channel")),
        (&json!(false), &json!(false), &Value::Null)
    );
    walk(&document, &mut |value| {
        if let Some(reference) = value.get("$ref").and_then(Value::as_str) {
            assert!(document.pointer(reference.strip_prefix('#').unwrap()).is_some(), "{reference} leads nowhere");
        }
    });
}

/// Every operation is served, refuses whoever has no credential, and only that way.
#[test]
fn the_document_and_the_server_agree() {
    let world = World::new();
    let document = world.request("GET", "/v1/openapi.json").send().expect(200);
    for (path, method, operation) in operations(&document) {
        let id = text(&operation["operationId"]);
        let path = path.replace("{offset}", "1").replace(['{', '}'], "");
        let schema = operation.pointer("/requestBody/content/application~1json/schema");
        let body = schema.map(|schema| example(&document, schema)).unwrap_or(json!({}));
        let answer = world.request(&method.to_uppercase(), &path).json(&body).send();
        let needs = operation["security"]
            .as_array()
            .is_some_and(|names| names.iter().any(|names| names.as_object().is_some_and(|names| !names.is_empty())));
        assert!(![404, 405].contains(&answer.status), "{id} is not served: {answer:?}");
        if needs {
            answer.problem(401, "unauthenticated");
        }
    }
}

/// The examples and the schemas of bodies are what the server takes: it wants what is required, and refuses other types and names.
#[test]
fn bodies_are_as_documented() {
    let world = World::new();
    world.group("channel", &[("user", "owner"), ("ann", "member")]);
    let document = world.request("GET", "/v1/openapi.json").send().expect(200);
    let mut bodies = 0;
    for (path, method, operation) in operations(&document) {
        let Some(schema) = operation.pointer("/requestBody/content/application~1json/schema") else { continue };
        bodies += 1;
        let id = text(&operation["operationId"]);
        let schema = resolve(&document, schema);
        let security = operation["security"][0].as_object().and_then(|names| names.keys().next());
        let credential = match security.map(String::as_str) {
            Some("operator_key") => OPERATOR,
            _ => &world.api,
        };
        let path = path.replace(['{', '}'], "");
        let send = |body: &Value| world.request(&method.to_uppercase(), &path).bearer(credential).json(body).send();
        let good = example(&document, schema);
        let status = send(&good).status;
        assert!(![400, 415, 422].contains(&status), "{id}: {status} for {good}");

        let named = |answer: crate::Answer, field: &str| {
            let problem = answer.problem(422, "validation");
            let errors = problem["errors"].as_array().unwrap();
            assert!(errors.iter().any(|error| error["field"] == field), "{id} {field}: {problem}");
        };
        for name in schema["required"].as_array().into_iter().flatten().map(text) {
            let mut without = good.clone();
            without.as_object_mut().unwrap().remove(&name);
            named(send(&without), &format!("/{name}"));
        }
        for name in schema["properties"].as_object().into_iter().flat_map(|properties| properties.keys()) {
            let mut wrong = good.clone();
            wrong[name] = json!(true);
            named(send(&wrong), &format!("/{name}"));
        }
        let mut more = good.clone();
        more["not_a_field"] = json!(1);
        named(send(&more), "/not_a_field");
    }
    assert!(bodies >= 12, "{bodies}");
}

fn resolve<'a>(document: &'a Value, schema: &'a Value) -> &'a Value {
    match schema["$ref"].as_str() {
        Some(reference) => document.pointer(reference.strip_prefix('#').unwrap()).unwrap(),
        None => schema,
    }
}

fn example(document: &Value, schema: &Value) -> Value {
    if let Some(example) = schema.get("example") {
        return example.clone();
    }
    let schema = resolve(document, schema);
    if let Some(word) = schema["enum"].as_array().and_then(|words| words.first()) {
        return word.clone();
    }
    let required: Vec<_> = schema["required"].as_array().into_iter().flatten().map(text).collect();
    match schema["type"].as_str() {
        Some("object") => {
            let properties = schema["properties"].as_object().into_iter().flatten();
            let shown =
                properties.filter(|(name, property)| required.contains(name) || property.get("example").is_some());
            Value::Object(shown.map(|(name, property)| (name.clone(), example(document, property))).collect())
        }
        Some("array") => json!([]),
        Some("integer") => json!(1),
        _ => json!("text"),
    }
}

#[test]
fn the_page_shows_everything_and_runs_nothing() {
    let world = World::new();
    let document = world.request("GET", "/v1/openapi.json").send().expect(200);
    let answer = world.request("GET", "/v1/docs").send();
    assert_eq!((answer.status, answer.header("content-type")), (200, "text/html; charset=utf-8"));
    let policy = answer.header("content-security-policy");
    assert!(policy.starts_with("default-src 'none'; style-src 'self'"), "{policy}");
    let page = &answer.text;
    for (path, _, operation) in operations(&document) {
        assert!(page.contains(&format!("id=\"{}\"", text(&operation["operationId"]))));
        assert!(page.contains(&format!("<code>{path}</code>")), "{path}");
    }
    for name in document["components"]["schemas"].as_object().unwrap().keys() {
        assert!(page.contains(&format!("id=\"schema-{}\"", name.to_lowercase())), "{name}");
    }
    assert!(page.contains("curl -X POST &quot;$MILLRACE_API/v1/channels&quot;"));
    assert!(!page.contains("<script") && !page.contains(" style=") && !page.contains("http-equiv"));
    assert!(!page.contains("href=\"http") && !page.contains("src="), "nothing from elsewhere");
    // Every link inside the page leads somewhere.
    for part in page.split("href=\"#").skip(1) {
        let anchor = part.split('"').next().unwrap();
        assert!(page.contains(&format!("id=\"{anchor}\"")), "#{anchor} leads nowhere");
    }
    assert_tags_match(page);
    assert_eq!(world.request("GET", "/v1/docs.css").send().header("content-type"), "text/css; charset=utf-8");
}

fn assert_tags_match(page: &str) {
    let mut open = Vec::new();
    for part in page.split('<').skip(1) {
        let tag = part.split(['>', ' ']).next().unwrap();
        match tag.strip_prefix('/') {
            Some(name) => assert_eq!(open.pop(), Some(name), "before {part:.60}"),
            None if ["!doctype", "meta", "link"].contains(&tag) => {}
            None => open.push(tag),
        }
    }
    assert!(open.is_empty(), "{open:?}");
}

#[test]
fn health_version_and_metrics_are_open() {
    let world = World::new();
    assert_eq!(world.request("GET", "/healthz").send().expect(200)["status"], "ok");
    assert_eq!(world.request("GET", "/readyz").send().expect(200), json!({"status": "ok", "data_plane": true}));
    world.plane.refuse(millrace_protocol::code::Code::Unavailable);
    assert_eq!(world.request("GET", "/readyz").send().expect(200)["data_plane"], false);
    assert_eq!(world.request("GET", "/v1/version").send().expect(200)["api"], json!(["v1"]));
    world.get("/v1/channels/some-name", &world.api).problem(404, "not-found");
    let metrics = world.request("GET", "/metrics").send();
    assert!(metrics.header("content-type").starts_with("text/plain"));
    let line = "millrace_rest_answers_total{method=\"GET\",route=\"/v1/channels/{channel}\",status=\"4xx\"} 1";
    assert!(metrics.text.contains(line), "{}", metrics.text);
    assert!(!metrics.text.contains("some-name"), "names are no labels");

    world.runtime.block_on(world.store.close()).unwrap();
    world.request("GET", "/healthz").send().expect(200);
    let unready = world.request("GET", "/readyz").send();
    unready.problem(503, "unavailable");
    assert_eq!(unready.header("retry-after"), "1");
}

#[test]
fn metrics_may_be_served_elsewhere() {
    let world = World::with(|config| config.admin_listen = Some("127.0.0.1:0".parse().unwrap()));
    world.request("GET", "/metrics").send().problem(404, "no-route");
    let admin = world.server.as_ref().unwrap().admin_address().unwrap();
    let elsewhere = |path: &str| world.agent.get(format!("http://{admin}{path}")).call().unwrap().status().as_u16();
    assert_eq!(["/metrics", "/healthz", "/readyz", "/v1/version"].map(elsewhere), [200, 200, 200, 404]);
}

#[test]
fn a_development_server_has_something_to_try() {
    let world = World::new();
    let first = world.runtime.block_on(ensure_dev(&world.store)).unwrap();
    let channel = world.get("/v1/channels/general", &first.token).expect(200);
    assert_eq!((&channel["kind"], &channel["role"]), (&json!("group"), &json!("owner")));
    let members = world.get("/v1/channels/general/members", &first.api_key).expect(200);
    assert_eq!(members["members"].as_array().unwrap().len(), first.users.len());
    assert_eq!(world.get("/v1/tenants/dev", &first.operator_key).expect(200)["id"], first.tenant.get());
    world.patch("/v1/channels/general", &first.api_key, &json!({"display_name": "Mine"})).expect(200);

    let second = world.runtime.block_on(ensure_dev(&world.store)).unwrap();
    assert_eq!((second.tenant, &second.user), (first.tenant, &first.user));
    assert_eq!(world.get("/v1/channels/general", &second.api_key).expect(200)["display_name"], "Mine");
    world.get("/v1/channels/general", &first.token).expect(200);
    world.get("/v1/channels/general", &first.api_key).problem(401, "unauthenticated");
}
