//! Users of a tenant.

use std::time::{Duration, Instant};

use axum::http::StatusCode;
use axum::response::Response;
use millrace_domain::{DisplayName, EventKind, Metadata, User};
use millrace_protocol::id::{TenantId, UserId};
use millrace_protocol::node::{RevokedTokens, TokensRevoked};
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Shared;
use super::body::{Body, Json, Name, Query};
use super::call::{ByApplication, Call, Change, Done, InTenant, Written, change, found, read};
use super::caller::wrong_scope;
use super::fields::{self, Fields, Request};
use super::members::{PageParams, forget_member};
use super::page::{PageQuery, cut};
use super::problem::{Kind, Problem};
use super::tokens::{end_sign_ins, forget_after_ms};
use crate::record::{channel, member, revocation, user};
use crate::webhooks::Event;

/// How long one request works on removing a user; who is in very many channels is removed by several.
const REMOVAL_MAX: Duration = Duration::from_secs(20);

pub(super) fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::new().routes(routes!(list_users)).routes(routes!(put_user, get_user, delete_user))
}

/// What is known of a user.
#[derive(Debug, ToSchema)]
pub(crate) struct PutUser {
    /// For people to read; 1 to 256 bytes, with something to be seen, no blanks at the ends, no control characters and none that change the direction of text. Kept in normalization form C. Missing or null: none.
    #[schema(value_type = Option<String>, max_length = 256, example = "Ann O'Neill")]
    display_name: Option<DisplayName>,
    /// The application's own JSON object; at most 4 KiB when written compactly.
    #[schema(value_type = Option<Object>)]
    metadata: Metadata,
}

impl Request for PutUser {
    fn read(fields: &mut Fields) -> Option<Self> {
        let display_name = fields.optional("display_name", fields::text);
        let metadata = fields.optional("metadata", fields::metadata);
        Some(Self { display_name: display_name?, metadata: metadata?.unwrap_or_default() })
    }
}

impl Body for PutUser {}

/// A user.
#[derive(Serialize, ToSchema)]
#[schema(as = User)]
pub(crate) struct UserView {
    /// The tenant's own name for them.
    #[schema(example = "ann")]
    id: String,
    /// For people to read.
    display_name: Option<String>,
    /// The application's own.
    #[schema(value_type = Object)]
    metadata: Map<String, Value>,
    /// When they were first named; Unix time, ms.
    created_ms: i64,
    /// When the record last changed; Unix time, ms.
    updated_ms: i64,
}

impl UserView {
    fn new(user: &User) -> Self {
        Self {
            id: user.id.to_string(),
            display_name: user.display_name.as_ref().map(ToString::to_string),
            metadata: user.metadata.as_object().clone(),
            created_ms: user.created_ms,
            updated_ms: user.updated_ms,
        }
    }
}

/// What webhooks hear of a user.
pub(super) fn user_event(kind: EventKind, tenant: TenantId, user: &User) -> Event {
    Event::of_user(kind, tenant, &user.id, &serde_json::json!({ "user": UserView::new(user) }))
}

/// A page of users.
#[derive(Serialize, ToSchema)]
pub(crate) struct UserPage {
    /// By id.
    users: Vec<UserView>,
    /// Asks for the next page; null on the last one.
    next: Option<String>,
}

/// Write a user.
///
/// Creates them or takes the place of what was known; what is the same already is left alone. Who is named as a member or gets a token is created without this, bare.
#[utoipa::path(
    put, path = "/v1/users/{user}", tag = "users", params(("user" = String, Path, description = "Their id: 1 to 128 bytes of letters, digits and `-_.:@~`")),
    request_body = PutUser,
    responses((status = 201, description = "Created", body = UserView), (status = 200, description = "As they are now", body = UserView)),
    security(("api_key" = []))
)]
async fn put_user(
    ByApplication(call): ByApplication,
    Name(id): Name<String>,
    body: Json<PutUser>,
) -> Result<Response, Problem> {
    let tenant = call.caller()?.application()?;
    let id = UserId::new(&id).map_err(|error| Problem::field("user", error.to_string()))?;
    change!(call, body.digest, |transaction| {
        let present = user::get(transaction, tenant, &id).await?;
        // What this very request wrote in an earlier run is told: nobody knows whether that one was stored.
        if let Some(present) = &present
            && present.updated_ms != call.now_ms
            && (&present.display_name, &present.metadata) == (&body.value.display_name, &body.value.metadata)
        {
            return Ok(Done::quietly(Written::json(StatusCode::OK, &UserView::new(present))));
        }
        let written = User {
            id: id.clone(),
            display_name: body.value.display_name.clone(),
            metadata: body.value.metadata.clone(),
            created_ms: present.as_ref().map_or(call.now_ms, |present| present.created_ms),
            updated_ms: call.now_ms,
        };
        user::put(transaction, tenant, &written);
        let (status, kind) = match present {
            Some(_) => (StatusCode::OK, EventKind::UserUpdated),
            None => (StatusCode::CREATED, EventKind::UserCreated),
        };
        let events = vec![user_event(kind, tenant, &written)];
        Ok(Done::quietly(Written::json(status, &UserView::new(&written))).telling(events))
    })
}

/// Look a user up.
///
/// Users may look themselves up.
#[utoipa::path(
    get, path = "/v1/users/{user}", tag = "users", params(("user" = String, Path, description = "Their id")),
    responses((status = 200, description = "The user", body = UserView)), security(("api_key" = []), ("access_token" = []))
)]
async fn get_user(InTenant(call): InTenant, Name(id): Name<UserId>) -> Result<Response, Problem> {
    let (tenant, own) = call.caller()?.in_tenant()?;
    if own.is_some_and(|own| *own != id) {
        return Err(wrong_scope("an API key to look another user up"));
    }
    let user = read!(call, |transaction| { Ok(user::get(transaction, tenant, &id).await?) })?;
    Ok(found(&UserView::new(&user.ok_or_else(|| Problem::not_found("user"))?)))
}

/// List users.
#[utoipa::path(
    get, path = "/v1/users", tag = "users", params(PageParams),
    responses((status = 200, description = "A page", body = UserPage)), security(("api_key" = []))
)]
async fn list_users(ByApplication(call): ByApplication, Query(query): Query<PageQuery>) -> Result<Response, Problem> {
    let tenant = call.caller()?.application()?;
    let after = query.after(|cursor| UserId::new(cursor).ok())?;
    let mut users =
        read!(call, |transaction| { Ok(user::page(transaction, tenant, after.as_ref(), query.limit + 1).await?) })?;
    let next = cut(&mut users, query.limit, |user| user.id.to_string());
    Ok(found(&UserPage { users: users.iter().map(UserView::new).collect(), next }))
}

/// Delete a user.
///
/// Ends their memberships, tokens and sessions. A channel whose only owner they were goes to the highest of its other members; with nobody
/// left, and if it is a dm, it is archived. Their messages stay. Someone in very many channels may need the request several times: it then
/// answers 503 with `Retry-After` and goes on where it stopped.
#[utoipa::path(
    delete, path = "/v1/users/{user}", tag = "users", params(("user" = String, Path, description = "Their id")),
    responses((status = 204, description = "Deleted")), security(("api_key" = []))
)]
async fn delete_user(ByApplication(call): ByApplication, Name(id): Name<UserId>) -> Result<Response, Problem> {
    let tenant = call.caller()?.application()?;
    let present = read!(call, |transaction| { Ok(user::get(transaction, tenant, &id).await?) })?;
    if present.is_none() {
        return Err(Problem::not_found("user"));
    }
    let give_up_at = Instant::now() + REMOVAL_MAX;
    // First the tokens: who cannot come back does not become a member again meanwhile.
    end_sign_ins(&call, tenant, &id).await?;
    revoke_all(&call, tenant, &id).await?;
    leave_everything(&call, tenant, &id, give_up_at).await?;
    change!(call, [0; 32], |transaction| {
        // By key: of two requests one deletes and tells, and the other finds nothing.
        let Some(present) = user::get(transaction, tenant, &id).await? else {
            return Ok(Done::quietly(Written::empty()));
        };
        user::remove(transaction, tenant, &id);
        Ok(Done::quietly(Written::empty()).telling(vec![user_event(EventKind::UserDeleted, tenant, &present)]))
    })
}

async fn revoke_all(call: &Call, tenant: TenantId, id: &UserId) -> Result<(), Problem> {
    let revoked = TokensRevoked {
        tenant,
        which: RevokedTokens::UserBefore(id.clone(), call.now_ms + 1),
        forget_after_ms: forget_after_ms(call.now_ms),
    };
    change!(call, [0; 32], |transaction| {
        revocation::put(transaction, &revoked);
        Ok(Done::with(Written::empty(), vec![Change::Revoked(revoked.clone())]))
    })?;
    Ok(())
}

async fn leave_everything(call: &Call, tenant: TenantId, id: &UserId, give_up_at: Instant) -> Result<(), Problem> {
    loop {
        let channels = read!(call, |transaction| {
            let ids = member::channels_of_user(transaction, tenant, id, None, 100).await?;
            let mut channels = Vec::with_capacity(ids.len());
            for id in ids {
                channels.extend(channel::by_id(transaction, id).await?);
            }
            Ok(channels)
        })?;
        if channels.is_empty() {
            return Ok(());
        }
        for present in channels {
            if Instant::now() > give_up_at {
                let problem = Problem::new(Kind::Unavailable, "the user is in very many channels; go on deleting");
                return Err(problem.after(Duration::from_secs(1)));
            }
            let _turn = call.turn(tenant, present.name.as_str()).await;
            change!(call, [0; 32], |transaction| {
                let Some(channel) = channel::by_id(transaction, present.id).await? else {
                    return Ok(Done::quietly(Written::empty()));
                };
                let (changes, events) = forget_member(transaction, tenant, channel, id, call.now_ms).await?;
                Ok(Done::with(Written::empty(), changes).telling(events))
            })?;
        }
    }
}
