//! The API for people to read: one page, made on the server from the OpenAPI document. No script, nothing from elsewhere.

use std::fmt::Write as _;
use std::sync::Arc;

use axum::Router;
use axum::extract::Path;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde_json::Value;

use super::Shared;
use super::problem::{Kind, Problem, TYPE_PREFIX};

const STYLE: &str = include_str!("docs.css");
const STYLE_PATH: &str = "/v1/docs.css";
const DOCUMENT_PATH: &str = "/v1/openapi.json";
/// Nothing but our own style sheet: the page shows what strangers might one day have a hand in.
const POLICY: &str =
    "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Serves the document, the page, and the names of problems.
pub(super) fn routes(document: &Value) -> Router<Shared> {
    let json: Arc<str> = serde_json::to_string(document).expect("a document has string keys").into();
    let page: Arc<str> = page(document).into();
    Router::new()
        .route(DOCUMENT_PATH, get(async move || with_type("application/json", json.to_string())))
        .route("/v1/docs", get(async move || with_type("text/html; charset=utf-8", page.to_string())))
        .route(STYLE_PATH, get(async || with_type("text/css; charset=utf-8", STYLE.to_owned())))
        .route(&format!("{TYPE_PREFIX}{{slug}}"), get(explain))
}

fn with_type(media_type: &'static str, body: String) -> Response {
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static(media_type)),
        (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY)),
        (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
        (HeaderName::from_static("cache-control"), HeaderValue::from_static("max-age=300")),
    ];
    (headers, body).into_response()
}

/// Leads from the type of a problem to its explanation.
async fn explain(Path(slug): Path<String>) -> Result<Response, Problem> {
    let kind = Kind::ALL.iter().find(|kind| kind.slug() == slug);
    let kind = kind.ok_or_else(|| Problem::not_found("type of problem"))?;
    Ok((StatusCode::SEE_OTHER, [(header::LOCATION, format!("/v1/docs#problem-{}", kind.slug()))]).into_response())
}

/// Writes HTML.
struct Html(String);

impl Html {
    fn raw(&mut self, html: &str) -> &mut Self {
        self.0.push_str(html);
        self
    }

    fn text(&mut self, text: &str) -> &mut Self {
        for c in text.chars() {
            match c {
                '&' => self.0.push_str("&amp;"),
                '<' => self.0.push_str("&lt;"),
                '>' => self.0.push_str("&gt;"),
                '"' => self.0.push_str("&quot;"),
                '\'' => self.0.push_str("&#39;"),
                c => self.0.push(c),
            }
        }
        self
    }

    fn element(&mut self, name: &str, text: &str) -> &mut Self {
        let _ = write!(self.0, "<{name}>");
        self.text(text);
        let end = name.split(' ').next().unwrap_or(name);
        let _ = write!(self.0, "</{end}>");
        self
    }

    /// Text in which `code` and **emphasis** are marked.
    fn prose(&mut self, text: &str) -> &mut Self {
        for (index, part) in text.split('`').enumerate() {
            if index % 2 == 1 {
                self.element("code", part);
                continue;
            }
            for (index, part) in part.split("**").enumerate() {
                if index % 2 == 1 {
                    self.element("strong", part)
                } else {
                    self.text(part)
                };
            }
        }
        self
    }

    fn paragraphs(&mut self, text: &str) -> &mut Self {
        for paragraph in text.split("\n\n").filter(|paragraph| !paragraph.trim().is_empty()) {
            self.raw("<p>").prose(paragraph).raw("</p>");
        }
        self
    }
}

fn str_of<'a>(value: &'a Value, name: &str) -> &'a str {
    value.get(name).and_then(Value::as_str).unwrap_or_default()
}

fn entries<'a>(value: &'a Value, name: &str) -> impl Iterator<Item = (&'a String, &'a Value)> {
    value.get(name).and_then(Value::as_object).into_iter().flatten()
}

fn items<'a>(value: &'a Value, name: &str) -> impl Iterator<Item = &'a Value> {
    value.get(name).and_then(Value::as_array).into_iter().flatten()
}

/// An operation with its place in the document.
struct Operation<'a> {
    path: &'a str,
    method: &'a str,
    value: &'a Value,
}

fn operations<'a>(document: &'a Value, tag: &'a str) -> impl Iterator<Item = Operation<'a>> {
    entries(document, "paths").flat_map(move |(path, item)| {
        // In the order in which one would try them.
        ["post", "get", "put", "patch", "delete"].into_iter().filter_map(move |method| {
            let value = item.get(method)?;
            let tagged = items(value, "tags").any(|found| found.as_str() == Some(tag));
            tagged.then_some(Operation { path, method, value })
        })
    })
}

fn page(document: &Value) -> String {
    let mut html = Html(String::new());
    let info = &document["info"];
    html.raw("<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>Millrace REST API</title>");
    html.raw("<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">");
    html.raw("<link rel=\"stylesheet\" href=\"").raw(STYLE_PATH).raw("\"></head><body>");
    contents(&mut html, document);
    html.raw("<main><header><h1>Millrace REST API</h1><p class=\"version\">version ");
    html.text(str_of(info, "version")).raw(" · <a href=\"").raw(DOCUMENT_PATH).raw("\">OpenAPI 3.1</a></p>");
    html.paragraphs(str_of(info, "description")).raw("</header>");
    for tag in items(document, "tags") {
        let name = str_of(tag, "name");
        let _ = write!(html.0, "<section id=\"{}\">", anchor(name));
        html.element("h2", &capitalized(name)).raw("<p>").prose(str_of(tag, "description")).raw("</p>");
        for operation in operations(document, name) {
            describe(&mut html, document, &operation);
        }
        html.raw("</section>");
    }
    schemas(&mut html, document);
    problems(&mut html);
    html.raw("</main></body></html>");
    html.0
}

fn contents(html: &mut Html, document: &Value) {
    html.raw("<nav aria-label=\"Contents\"><p class=\"brand\">Millrace</p>");
    for tag in items(document, "tags") {
        let name = str_of(tag, "name");
        let _ = write!(html.0, "<h3><a href=\"#{}\">", anchor(name));
        html.text(&capitalized(name)).raw("</a></h3><ul>");
        for operation in operations(document, name) {
            let _ = write!(html.0, "<li><a href=\"#{}\">", str_of(operation.value, "operationId"));
            html.text(str_of(operation.value, "summary").trim_end_matches('.')).raw("</a></li>");
        }
        html.raw("</ul>");
    }
    html.raw("<h3><a href=\"#schemas\">Schemas</a></h3><h3><a href=\"#problems\">Problems</a></h3></nav>");
}

fn describe(html: &mut Html, document: &Value, operation: &Operation<'_>) {
    let value = operation.value;
    let _ = write!(html.0, "<article id=\"{}\">", str_of(value, "operationId"));
    html.element("h3", str_of(value, "summary").trim_end_matches('.'));
    let _ = write!(
        html.0,
        "<p class=\"route\"><span class=\"method {0}\">{1}</span> ",
        operation.method,
        operation.method.to_uppercase()
    );
    html.element("code", operation.path).raw("</p>");
    html.paragraphs(str_of(value, "description"));
    credentials(html, value);
    parameters(html, value);
    if let Some(schema) = value.pointer("/requestBody/content/application~1json/schema") {
        html.raw("<h4>Body</h4>");
        properties(html, resolve(document, schema), &type_of(schema));
    }
    html.raw("<h4>Answers</h4><dl class=\"answers\">");
    for (status, response) in entries(value, "responses") {
        let schema = response["content"].as_object().and_then(|content| content.values().next()).map(|c| &c["schema"]);
        let status = if status == "default" { "4xx, 5xx" } else { status };
        html.element("dt", status).raw("<dd>").prose(str_of(response, "description"));
        if let Some(schema) = schema {
            html.raw(": ");
            type_link(html, schema);
        }
        html.raw("</dd>");
    }
    html.raw("</dl><h4>Example</h4><pre><code>").text(&curl(document, operation)).raw("</code></pre></article>");
}

fn credentials(html: &mut Html, operation: &Value) {
    let names = items(operation, "security").filter_map(Value::as_object).flat_map(|names| names.keys());
    let names: Vec<_> = names.map(|name| name.replace('_', " ")).collect();
    html.raw("<p class=\"credentials\">Credential: ");
    html.text(&if names.is_empty() { "none".to_owned() } else { names.join(" or ") }).raw("</p>");
}

fn parameters(html: &mut Html, operation: &Value) {
    let mut parameters = items(operation, "parameters").peekable();
    if parameters.peek().is_none() {
        return;
    }
    html.raw("<h4>Parameters</h4><table><tbody>");
    for parameter in parameters {
        html.raw("<tr><th scope=\"row\"><code>").text(str_of(parameter, "name")).raw("</code><span>");
        html.text(str_of(parameter, "in"));
        if parameter["required"] == Value::Bool(true) {
            html.raw(", required");
        }
        html.raw("</span></th><td>").prose(str_of(parameter, "description")).raw("</td></tr>");
    }
    html.raw("</tbody></table>");
}

/// The schema that a reference leads to.
fn resolve<'a>(document: &'a Value, schema: &'a Value) -> &'a Value {
    match schema.get("$ref").and_then(Value::as_str).and_then(|reference| reference.strip_prefix('#')) {
        Some(pointer) => document.pointer(pointer).unwrap_or(schema),
        None => schema,
    }
}

/// A schema in a word or two, such as `string or null`.
fn type_of(schema: &Value) -> String {
    if let Some(reference) = schema.get("$ref").and_then(Value::as_str) {
        return reference.rsplit('/').next().unwrap_or(reference).to_owned();
    }
    for union in ["oneOf", "anyOf", "allOf"] {
        if schema.get(union).is_some() {
            return items(schema, union).map(type_of).collect::<Vec<_>>().join(" or ");
        }
    }
    match &schema["type"] {
        Value::String(name) if name == "array" => format!("array of {}", type_of(&schema["items"])),
        Value::String(name) => name.clone(),
        Value::Array(names) => names.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" or "),
        _ => "any".to_owned(),
    }
}

/// The reference in a schema, also behind an array or a union.
fn reference_in(schema: &Value) -> Option<&str> {
    if let Some(reference) = schema.get("$ref").and_then(Value::as_str) {
        return reference.rsplit('/').next();
    }
    let parts = ["oneOf", "anyOf", "allOf"].into_iter().flat_map(|union| items(schema, union));
    parts.chain(schema.get("items")).find_map(reference_in)
}

fn type_link(html: &mut Html, schema: &Value) {
    match reference_in(schema) {
        Some(name) => {
            let _ = write!(html.0, "<a href=\"#schema-{}\">", anchor(name));
            html.text(&type_of(schema)).raw("</a>");
        }
        None => {
            html.text(&type_of(schema));
        }
    }
}

/// The members of an object; what is all of several schemas shows the members of each.
fn properties(html: &mut Html, schema: &Value, name: &str) {
    if !name.is_empty() {
        let _ = write!(html.0, "<p><a href=\"#schema-{}\">", anchor(name));
        html.text(name).raw("</a></p>");
    }
    let required: Vec<_> = items(schema, "required").filter_map(Value::as_str).collect();
    html.raw("<table><tbody>");
    for (name, property) in entries(schema, "properties") {
        html.raw("<tr><th scope=\"row\"><code>").text(name).raw("</code><span>");
        type_link(html, property);
        if required.contains(&name.as_str()) {
            html.raw(", required");
        }
        html.raw("</span></th><td>").prose(description_of(property));
        bounds(html, property);
        html.raw("</td></tr>");
    }
    html.raw("</tbody></table>");
}

/// What is said of a property: beside a reference that may be null, it stands with the reference.
fn description_of(property: &Value) -> &str {
    let parts = items(property, "oneOf").map(|part| str_of(part, "description"));
    std::iter::once(str_of(property, "description")).chain(parts).find(|text| !text.is_empty()).unwrap_or_default()
}

fn bounds(html: &mut Html, schema: &Value) {
    let words: Vec<_> = items(schema, "enum").filter_map(Value::as_str).collect();
    if !words.is_empty() {
        html.raw(" One of ");
        for (index, word) in words.iter().enumerate() {
            html.raw(if index > 0 { ", " } else { "" }).element("code", word);
        }
        html.raw(".");
    }
    for (bound, label) in
        [("minimum", "least"), ("maximum", "most"), ("maxLength", "most characters"), ("maxItems", "most entries")]
    {
        if let Some(value) = schema.get(bound) {
            let _ = write!(html.0, " <span class=\"bound\">{label}: {value}</span>");
        }
    }
}

fn schemas(html: &mut Html, document: &Value) {
    html.raw("<section id=\"schemas\"><h2>Schemas</h2>");
    for (name, schema) in entries(&document["components"], "schemas") {
        let _ = write!(html.0, "<article id=\"schema-{}\">", anchor(name));
        html.element("h3", name).paragraphs(str_of(schema, "description"));
        bounds(html, schema);
        if schema.get("properties").is_some() {
            properties(html, schema, "");
        }
        for part in items(schema, "allOf") {
            match reference_in(part) {
                Some(_) => {
                    html.raw("<p>Everything of ");
                    type_link(html, part);
                    html.raw(", and:</p>");
                }
                None => properties(html, part, ""),
            }
        }
        html.raw("</article>");
    }
    html.raw("</section>");
}

fn problems(html: &mut Html) {
    html.raw("<section id=\"problems\"><h2>Problems</h2><p>Every refusal is a <a href=\"#schema-problem\">problem</a> (RFC 9457) of one of these types.</p>");
    for kind in Kind::ALL {
        let _ = write!(html.0, "<article id=\"problem-{}\">", kind.slug());
        html.element("h3", kind.title()).raw("<p class=\"route\"><span class=\"method problem\">");
        html.text(kind.status().as_str()).raw("</span> ").element("code", &format!("{TYPE_PREFIX}{}", kind.slug()));
        html.raw("</p><p>").prose(kind.meaning().trim()).raw("</p></article>");
    }
    html.raw("</section>");
}

/// How to try an operation from a terminal.
fn curl(document: &Value, operation: &Operation<'_>) -> String {
    let mut path = operation.path.to_owned();
    for (name, example) in [
        ("tenant", "acme"),
        ("user", "ann"),
        ("channel", "general"),
        ("offset", "17"),
        ("key", "$KEY_ID"),
        ("node", "data-1"),
    ] {
        path = path.replace(&format!("{{{name}}}"), example);
    }
    let mut command = "curl".to_owned();
    if operation.method != "get" {
        let _ = write!(command, " -X {}", operation.method.to_uppercase());
    }
    let _ = write!(command, " \"$MILLRACE_API{path}\"");
    let credential =
        items(operation.value, "security").filter_map(Value::as_object).find_map(|names| names.keys().next());
    if let Some(credential) = credential {
        let _ = write!(command, " \\\n  -H \"Authorization: Bearer ${}\"", credential.to_uppercase());
    }
    if operation.method == "post" {
        command.push_str(" \\\n  -H \"Idempotency-Key: $(uuidgen)\"");
    }
    if let Some(schema) = operation.value.pointer("/requestBody/content/application~1json/schema") {
        let body = example(document, schema);
        let _ = write!(command, " \\\n  -H 'Content-Type: application/json' \\\n  -d '{body}'");
    }
    command
}

/// A body with what is required, and what has an example.
pub(super) fn example(document: &Value, schema: &Value) -> Value {
    if let Some(example) = schema.get("example") {
        return example.clone();
    }
    let schema = resolve(document, schema);
    if let Some(word) = items(schema, "enum").next() {
        return word.clone();
    }
    let required: Vec<_> = items(schema, "required").filter_map(Value::as_str).collect();
    let shown = entries(schema, "properties")
        .filter(|(name, property)| required.contains(&name.as_str()) || property.get("example").is_some())
        .map(|(name, property)| (name.clone(), example(document, property)));
    match schema["type"].as_str() {
        Some("object") => Value::Object(shown.collect()),
        Some("array") => Value::Array(vec![example(document, &schema["items"])]),
        Some("integer") => Value::from(1),
        Some("string") => Value::from("text"),
        _ => Value::Null,
    }
}

fn anchor(name: &str) -> String {
    name.to_lowercase().replace(' ', "-")
}

fn capitalized(name: &str) -> String {
    let mut chars = name.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}
