//! `millrace console`: a link to the web console that signs in, without a credential in it.

use std::io::Write;

use anyhow::{Context, Result};
use clap::Args;
use serde_json::json;

use super::credentials::Connection;
use super::output::line;
use super::rest::Api;

/// Print a link that opens the web console and signs in, once.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  millrace console\n  millrace console --as bob\n  xdg-open \"$(millrace console)\"\n\n\
    The link works once, within ten minutes: give it to nobody. The operator's key is needed to make it: --operator-key,\n\
    MILLRACE_OPERATOR_KEY, or a folder where `millrace dev` runs. With an API key, the link signs in as a user, too."
)]
pub(crate) struct Console {
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: Connection,
}

pub(crate) fn run(command: &Console) -> Result<()> {
    let credentials = command.connection.resolve()?;
    let operator = Api::operator(&credentials)?;
    let user = command.connection.user.as_ref().unwrap_or(&credentials.user);
    let given = command.connection.token.as_ref().filter(|_| command.connection.user.is_none());
    let mut body = json!({ "keys": [&credentials.operator_key] });
    if let Some(token) = given {
        body["token"] = json!(token);
    } else if !user.is_empty() && !credentials.api_key.is_empty() {
        // A sign-in of its own, which the page can renew and end.
        let pair = Api::new(&credentials)?.issue_token(user, None)?;
        (body["token"], body["refresh_token"]) = (pair["token"].clone(), pair["refresh_token"].clone());
    }
    if !credentials.api_key.is_empty() {
        body["keys"] = json!([&credentials.api_key, &credentials.operator_key]);
    }
    let made = operator.post("/v1/sign-in-codes", &body)?;
    let code = made["code"].as_str().context("the answer has no code")?;
    let link = link(credentials.need_api()?, code);
    if command.json {
        return line(json!({ "console": link, "expires_ms": made["expires_ms"] }));
    }
    writeln!(std::io::stdout(), "{link}").context("print the link")
}

/// Where the console takes a code. What stands behind `#` is sent to nobody, and the page takes it out of the address.
pub(crate) fn link(api: &str, code: &str) -> String {
    format!("{api}/#code={code}")
}
