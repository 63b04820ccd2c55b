//! What a deployment begins with.

use std::sync::Arc;
use std::time::{Duration, Instant};

use millrace_domain::{
    Actor, ApiKey, Channel, ChannelDraft, DisplayName, KeyText, Membership, Metadata, TenantName, User,
};
use millrace_protocol::id::{ChannelId, ChannelName, TenantId, UserId};
use millrace_protocol::node::{ChannelKind, Role};
use millrace_store::{Store, StoreError, Transaction};
use millrace_token::Claims;

use crate::record::{api_key, channel, member, user};
use crate::rest::problem::Problem;
use crate::rest::tenants::NewTenant;
use crate::rest::tokens;
use crate::secret;
use crate::transact::{TransactError, transact};

/// How long it may take.
const DEADLINE: Duration = Duration::from_secs(10);
const TENANT: &str = "dev";
const CHANNEL: &str = "general";
/// The first one owns the channel.
const USERS: [(&str, &str); 3] = [("alice", "Alice"), ("bob", "Bob"), ("carol", "Carol")];
/// Ids of the keys: the same each time, so that a new secret takes the place of the old one.
const API_KEY_ID: &str = "devapplication";
const OPERATOR_KEY_ID: &str = "devoperator";
/// As long as a token may live.
const TOKEN_LIFE_MS: i64 = 24 * 3600 * 1000;

/// Why there is nothing to begin with.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BootstrapError {
    /// The store failed, or did not answer in time; the rest is in the log.
    #[error("the store: {0}")]
    Store(String),
    /// A rule stands against it: a bug, or a store that somebody else has filled.
    #[error("{0}")]
    Refused(String),
}

impl From<TransactError> for BootstrapError {
    fn from(error: TransactError) -> Self {
        Self::Store(error.to_string())
    }
}

impl From<StoreError> for BootstrapError {
    fn from(error: StoreError) -> Self {
        Self::Store(error.to_string())
    }
}

impl From<Problem> for BootstrapError {
    fn from(problem: Problem) -> Self {
        Self::Refused(problem.detail().to_owned())
    }
}

/// What [`ensure_dev`] made, with credentials in clear.
#[derive(Clone)]
pub struct Dev {
    /// The tenant `dev`.
    pub tenant: TenantId,
    /// A user, owner of the channel.
    pub user: String,
    /// An access token of theirs, for a day.
    pub token: String,
    /// All users.
    pub users: Vec<String>,
    /// A channel that all of them are members of.
    pub channel: String,
    /// Acts for the tenant.
    pub api_key: String,
    /// Manages tenants and keys.
    pub operator_key: String,
}

/// 32 random bytes, such as for a cluster secret.
pub fn random_secret() -> Vec<u8> {
    secret::random::<32>().to_vec()
}

/// Makes sure that there is something to try: the tenant `dev` with users and a channel. What is there already stays as it is; the
/// two keys get new secrets each time, because only what they hash to is stored. Call it before a data node links.
///
/// # Errors
/// [`BootstrapError`].
///
/// # Cancel safety
/// A dropped future may have made all of it or nothing.
pub async fn ensure_dev(store: &Arc<dyn Store>) -> Result<Dev, BootstrapError> {
    let now_ms = crate::rest::now_ms();
    let name: TenantName = TENANT.parse().map_err(refused)?;
    let new_tenant = NewTenant::new(name, None, now_ms)?;
    let new_channel = secret::channel_id();
    let (api_secret, operator_secret) = (secret::random_secret(), secret::random_secret());
    let token_id = secret::random_id();
    let deadline = Instant::now() + DEADLINE;
    let made: Result<(TenantId, String), BootstrapError> = transact!(&**store, deadline, |transaction| {
        let present = new_tenant.insert(transaction).await?;
        let tenant = present.map_or(new_tenant.tenant.id, |present| present.id);
        for (id, secret, tenant) in [(API_KEY_ID, &api_secret, Some(tenant)), (OPERATOR_KEY_ID, &operator_secret, None)]
        {
            api_key::put(
                transaction,
                &ApiKey {
                    id: id.into(),
                    tenant: tenant.map(TenantId::get),
                    label: DisplayName::new("millrace dev").ok(),
                    secret_sha256: secret::fingerprint(secret),
                    created_ms: now_ms,
                },
            );
        }
        ensure_users_and_channel(transaction, tenant, new_channel, now_ms).await?;
        let claims = Claims {
            tenant,
            user: UserId::new(USERS[0].0).map_err(refused)?,
            issued_at_ms: now_ms,
            expires_at_ms: now_ms + TOKEN_LIFE_MS,
            id: token_id.clone(),
            roles: Vec::new(),
            device: None,
        };
        Ok((tenant, tokens::sign(transaction, &claims).await?))
    });
    let (tenant, token) = made?;
    Ok(Dev {
        tenant,
        user: USERS[0].0.into(),
        token,
        users: USERS.iter().map(|(id, _)| (*id).into()).collect(),
        channel: CHANNEL.into(),
        api_key: KeyText { id: API_KEY_ID, secret: &api_secret }.to_string(),
        operator_key: KeyText { id: OPERATOR_KEY_ID, secret: &operator_secret }.to_string(),
    })
}

async fn ensure_users_and_channel(
    transaction: &mut dyn Transaction,
    tenant: TenantId,
    new_channel: ChannelId,
    now_ms: i64,
) -> Result<(), BootstrapError> {
    let mut members = Vec::new();
    for (index, (id, display_name)) in USERS.into_iter().enumerate() {
        let id = UserId::new(id).map_err(refused)?;
        if user::get(transaction, tenant, &id).await?.is_none() {
            let user = User {
                id: id.clone(),
                display_name: DisplayName::new(display_name).ok(),
                metadata: Metadata::default(),
                created_ms: now_ms,
                updated_ms: now_ms,
            };
            user::put(transaction, tenant, &user);
        }
        members.push((id, if index == 0 { Role::Owner } else { Role::Member }));
    }
    let name = ChannelName::new(CHANNEL).map_err(refused)?;
    if channel::by_name(transaction, tenant, &name).await?.is_some() {
        return Ok(());
    }
    let draft = ChannelDraft {
        name: Some(name),
        kind: ChannelKind::Group,
        history: None,
        slow_consumer: None,
        display_name: DisplayName::new("General").ok(),
        metadata: Metadata::default(),
        members,
    };
    let new = Channel::create(Actor::Application, tenant, new_channel, draft, now_ms).map_err(refused)?;
    channel::by_id(transaction, new_channel).await?;
    for (user, role) in &new.members {
        let membership = Membership { role: *role, since_ms: now_ms, read: None };
        member::put(transaction, tenant, new_channel, user, &membership);
    }
    channel::insert(transaction, &new.channel);
    Ok(())
}

fn refused(error: impl std::fmt::Display) -> BootstrapError {
    BootstrapError::Refused(error.to_string())
}
