//! The OpenAPI document: what handlers say of themselves, and what holds for all of them.

use serde_json::{Map, Value, json};
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa::openapi::tag::TagBuilder;
use utoipa::openapi::{ComponentsBuilder, ContactBuilder, InfoBuilder, LicenseBuilder, OpenApi, OpenApiBuilder};
use utoipa::{PartialSchema, ToSchema};

use super::problem::{FieldError, MEDIA_TYPE, ProblemBody};

const DESCRIPTION: &str = "\
Durable, ordered channels with members and roles. Application servers and users manage them here; live messages travel on a WebSocket to a data node.

Three kinds of credential go into `Authorization: Bearer …`. An **operator key** manages tenants and keys. An **API key** acts for a whole tenant. An **access token** acts \
for one user, who sees only the channels that they are a member of. Each operation says which it takes; another one is refused with 403.

Times are Unix times in ms. Lists come in pages: `limit` bounds one, and its `next` is the `cursor` of the following one. Unknown fields and parameters are refused.

Every answer carries `X-Request-Id`, which a request may choose; those of every operation outside System also carry `RateLimit-Limit`, \
`RateLimit-Remaining` and `RateLimit-Reset` (seconds).";

const IDEMPOTENCY: &str = "Names this request, 1 to 255 visible ASCII characters, new for every new request. A repeated request with the same key and \
credential gets the first answer again, with `Idempotency-Replayed: true`, for 24 hours. With another body it is refused (422), while the first is under way too (409).";

/// What the operations are added to.
pub(super) fn base() -> OpenApi {
    let tag = |name: &str, description: &str| TagBuilder::new().name(name).description(Some(description)).build();
    let scheme = |description: &str| {
        let mut http = Http::new(HttpAuthScheme::Bearer);
        http.description = Some(description.to_owned());
        SecurityScheme::Http(http)
    };
    let schema = |name: std::borrow::Cow<'static, str>, schema| (name.into_owned(), schema);
    OpenApiBuilder::new()
        .info(
            InfoBuilder::new()
                .title("Millrace")
                .version(env!("CARGO_PKG_VERSION"))
                .description(Some(DESCRIPTION))
                .contact(Some(ContactBuilder::new().name(Some("Millrace")).build()))
                .license(Some(LicenseBuilder::new().name("Apache-2.0").identifier(Some("Apache-2.0")).build()))
                .build(),
        )
        .tags(Some([
            tag("tenants", "Worlds of their own, each with its users and channels."),
            tag("keys", "Credentials of application servers and operators."),
            tag("users", "People and machines of a tenant, under the tenant's own names for them."),
            tag("tokens", "Credentials of users."),
            tag("sign-in codes", "How a page gets credentials without one in its address."),
            tag("signing keys", "For tenants that sign access tokens by themselves."),
            tag("channels", "Named, ordered streams of messages."),
            tag("members", "Who may do what in a channel."),
            tag("messages", "What was said."),
            tag("webhooks", "What happens, told to an endpoint of the application by signed requests (Standard Webhooks)."),
            tag("inspection", "Sessions and subscriptions as data nodes see them at this moment, and what went wrong with them lately."),
            tag("nodes", "Data nodes: how they are doing, and sending one's clients away."),
            tag("system", "For machines that look after machines."),
        ]))
        .components(Some(
            ComponentsBuilder::new()
                .schemas_from_iter([
                    schema(ProblemBody::name(), ProblemBody::schema()),
                    schema(FieldError::name(), FieldError::schema()),
                ])
                .security_scheme("operator_key", scheme("An operator key: `mr_<id>_<secret>`"))
                .security_scheme("api_key", scheme("An API key of a tenant: `mr_<id>_<secret>`"))
                .security_scheme("access_token", scheme("A user's access token: a JWT"))
                .build(),
        ))
        .build()
}

/// Adds to every operation what holds for all: how problems look, and the header of repeatable requests.
pub(super) fn finish(document: &OpenApi) -> Value {
    let mut document = serde_json::to_value(document).expect("a document has string keys");
    let paths = document.get_mut("paths").and_then(Value::as_object_mut);
    for operations in paths.into_iter().flat_map(Map::values_mut).filter_map(Value::as_object_mut) {
        for (method, operation) in operations {
            if let Some(operation) = operation.as_object_mut() {
                complete(method, operation);
            }
        }
    }
    close_bodies(&mut document);
    document
}

/// Says of every body that it has no other fields: the server refuses them.
fn close_bodies(document: &mut Value) {
    let mut bodies = Vec::new();
    for item in document["paths"].as_object().into_iter().flat_map(Map::values) {
        for operation in item.as_object().into_iter().flat_map(Map::values) {
            if let Some(body) = operation.get("requestBody") {
                references(body, &mut bodies);
            }
        }
    }
    let mut at = 0;
    while let Some(pointer) = bodies.get(at).cloned() {
        at += 1;
        let Some(schema) = document.pointer_mut(&pointer) else { continue };
        if schema.get("properties").is_some() || schema.get("type").is_some_and(|kind| kind == "object") {
            schema["additionalProperties"] = Value::Bool(false);
        }
        // Lists in bodies have objects of their own.
        references(schema, &mut bodies);
    }
}

/// Adds the places that a value refers to, each once.
fn references(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Array(items) => items.iter().for_each(|item| references(item, found)),
        Value::Object(members) => {
            let reference = members.get("$ref").and_then(Value::as_str).and_then(|text| text.strip_prefix('#'));
            if let Some(pointer) = reference.filter(|pointer| !found.iter().any(|known| known == pointer)) {
                found.push(pointer.to_owned());
            }
            members.values().for_each(|member| references(member, found));
        }
        _ => {}
    }
}

fn complete(method: &str, operation: &mut Map<String, Value>) {
    let problem = json!({
        "description": "A problem; `type` says which",
        "content": { MEDIA_TYPE: { "schema": { "$ref": "#/components/schemas/Problem" } } },
    });
    if let Some(responses) = operation.get_mut("responses").and_then(Value::as_object_mut) {
        responses.insert("default".into(), problem);
    }
    if method == "post" {
        let header = json!({
            "name": "Idempotency-Key", "in": "header", "required": false, "description": IDEMPOTENCY,
            "schema": { "type": "string", "minLength": 1, "maxLength": 255 },
        });
        let parameters = operation.entry("parameters").or_insert_with(|| json!([]));
        if let Some(parameters) = parameters.as_array_mut() {
            parameters.push(header);
        }
    }
}
