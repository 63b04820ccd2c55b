//! `millrace token`: issue access tokens with an application server's key, look into them, revoke them.

use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use clap::{ArgGroup, Args, Subcommand};
use serde_json::{Value, json};

use super::credentials::Connection;
use super::output::line;
use super::rest::Api;

/// Issue, inspect and revoke access tokens.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  millrace token issue alice --ttl 1h\n  MILLRACE_TOKEN=$(millrace token issue alice) millrace tail general\n  \
    millrace token inspect \"$MILLRACE_TOKEN\"\n  millrace token revoke --user alice"
)]
pub(crate) struct Token {
    #[command(subcommand)]
    action: Action,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Print a new token for a user
    Issue {
        /// Who it is for
        user: String,
        /// How long it lives, such as 30m or 1h
        #[arg(long, value_parser = humantime::parse_duration)]
        ttl: Option<Duration>,
        /// Print the whole answer as JSON, refresh token included
        #[arg(long)]
        json: bool,
    },
    /// Show what a token says; its signature is not checked
    Inspect {
        /// The token; without one, that of the credentials
        token: Option<String>,
    },
    /// End tokens before their time: open sessions hear of it at once
    #[command(group = ArgGroup::new("which").args(["user", "id"]).required(true))]
    Revoke {
        /// All tokens of this user that were issued before now
        #[arg(long, value_name = "USER")]
        user: Option<String>,
        /// One token, by its id (jti)
        #[arg(long, value_name = "JTI")]
        id: Option<String>,
    },
}

pub(crate) fn run(command: &Token) -> Result<()> {
    let credentials = command.connection.resolve()?;
    match &command.action {
        Action::Issue { user, ttl, json } => {
            let answer = Api::new(&credentials)?.issue_token(user, *ttl)?;
            if *json {
                line(answer)?;
            } else {
                line(answer["token"].as_str().context("the answer has no token")?)?;
            }
        }
        Action::Inspect { token } => {
            let token = match token {
                Some(token) => token.as_str(),
                None => credentials.need_token()?,
            };
            line(serde_json::to_string_pretty(&inspect(token)?).context("write as JSON")?)?;
        }
        Action::Revoke { user, id } => {
            let body = match (user, id) {
                (Some(user), _) => json!({ "user": user }),
                (None, id) => json!({ "token_id": id }),
            };
            Api::new(&credentials)?.post("/v1/tokens/revoke", &body)?;
            eprintln!("revoked");
        }
    }
    Ok(())
}

/// The header and claims of a JWT, and whether it is past its time.
fn inspect(token: &str) -> Result<Value> {
    let parts: Vec<&str> = token.split('.').collect();
    ensure!(parts.len() == 3, "a token has three parts with dots between them, this has {}", parts.len());
    let part = |text: &str, what: &str| -> Result<Value> {
        let bytes = URL_SAFE_NO_PAD.decode(text).with_context(|| format!("the {what} is no base64url"))?;
        serde_json::from_slice(&bytes).with_context(|| format!("the {what} is no JSON"))
    };
    let (header, claims) = (part(parts[0], "header")?, part(parts[1], "claims")?);
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    // Seconds, with a fraction in the tokens that the control plane issues.
    let expired = claims["exp"].as_f64().is_some_and(|expires| expires <= now);
    Ok(json!({ "header": header, "claims": claims, "expired": expired }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_shows_what_it_says() {
        let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let token = format!("{}.{}.sig", part(json!({"alg": "HS256"})), part(json!({"sub": "alice", "exp": 1})));
        let shown = inspect(&token).unwrap();
        assert_eq!((shown["claims"]["sub"].as_str(), shown["expired"].as_bool()), (Some("alice"), Some(true)));
        let check = |expires: Value, expired| {
            let token = format!("{}.{}.sig", part(json!({})), part(json!({ "exp": expires })));
            assert_eq!(inspect(&token).unwrap()["expired"].as_bool(), Some(expired), "{expires}");
        };
        check(json!(1.5), true);
        check(json!(99_999_999_999.5), false);
        check(json!(99_999_999_999_u64), false);
        check(Value::Null, false);
        assert!(inspect("a.b").unwrap_err().to_string().contains("three parts"));
        assert!(inspect("!.b.c").unwrap_err().to_string().contains("base64url"));
    }
}
