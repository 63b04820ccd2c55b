//! Revoked tokens, remembered until they would have expired anyway, in bounded memory.
//!
//! When the bound is reached, precision is given up, never a revocation: the tenant with the most entries trades them for one that
//! refuses every token of that tenant issued until now; if no tenant has more than one entry, all trade for one that refuses
//! every token issued until now. Those users have to get a new token; nobody gets in who should not.

use std::collections::HashMap;

use millrace_protocol::id::{TenantId, UserId};
use millrace_protocol::node::{RevokedTokens, TokensRevoked};

use crate::claims::Claims;

/// Tokens issued before a moment are refused, until none of them can be valid any more. Unix times, ms.
#[derive(Debug, Clone, Copy)]
struct Cut {
    issued_before_ms: i64,
    forget_after_ms: i64,
}

impl Cut {
    fn join(self, other: Self) -> Self {
        Self {
            issued_before_ms: self.issued_before_ms.max(other.issued_before_ms),
            forget_after_ms: self.forget_after_ms.max(other.forget_after_ms),
        }
    }

    /// Refuses, whatever the present time: an entry that is due to be forgotten does no harm, as its tokens have expired.
    fn refuses(self, claims: &Claims) -> bool {
        claims.issued_at_ms < self.issued_before_ms
    }
}

#[derive(Debug, Clone, Default)]
struct TenantRevocations {
    /// `jti` → forget after.
    tokens: HashMap<Box<str>, i64>,
    users: HashMap<UserId, Cut>,
    /// What an overflow left.
    everybody: Option<Cut>,
}

impl TenantRevocations {
    fn len(&self) -> usize {
        self.tokens.len() + self.users.len() + usize::from(self.everybody.is_some())
    }

    fn latest(&self) -> i64 {
        let tokens = self.tokens.values().copied();
        let cuts = self.users.values().chain(&self.everybody).map(|cut| cut.forget_after_ms);
        tokens.chain(cuts).max().unwrap_or(i64::MIN)
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Revocations {
    tenants: HashMap<TenantId, TenantRevocations>,
    /// What the last resort left.
    everybody: Option<Cut>,
    len: usize,
    max: usize,
    /// An issuer's clock may be ahead by so much, so a token that exists now may say it is issued later.
    leeway_ms: i64,
}

impl Revocations {
    pub(crate) fn new(max: usize, leeway_ms: i64) -> Self {
        Self { tenants: HashMap::new(), everybody: None, len: 0, max: max.max(1), leeway_ms }
    }

    pub(crate) fn len(&self) -> usize {
        self.len + usize::from(self.everybody.is_some())
    }

    pub(crate) fn refuses(&self, claims: &Claims) -> bool {
        if self.everybody.is_some_and(|cut| cut.refuses(claims)) {
            return true;
        }
        self.tenants.get(&claims.tenant).is_some_and(|tenant| {
            tenant.tokens.contains_key(claims.id.as_str())
                || tenant.users.get(&claims.user).is_some_and(|cut| cut.refuses(claims))
                || tenant.everybody.is_some_and(|cut| cut.refuses(claims))
        })
    }

    pub(crate) fn insert(&mut self, revoked: &TokensRevoked, now_unix_ms: i64) {
        if revoked.forget_after_ms < now_unix_ms {
            return;
        }
        if self.len >= self.max {
            self.forget(now_unix_ms);
        }
        let tenant = self.tenants.entry(revoked.tenant).or_default();
        self.len -= tenant.len();
        match &revoked.which {
            RevokedTokens::Token(id) => {
                let forget = tenant.tokens.entry(id.as_str().into()).or_insert(revoked.forget_after_ms);
                *forget = revoked.forget_after_ms.max(*forget);
            }
            RevokedTokens::UserBefore(user, issued_before_ms) => {
                let cut = Cut { issued_before_ms: *issued_before_ms, forget_after_ms: revoked.forget_after_ms };
                tenant.users.entry(user.clone()).and_modify(|old| *old = old.join(cut)).or_insert(cut);
            }
        }
        self.len += tenant.len();
        while self.len > self.max {
            self.coarsen(now_unix_ms);
        }
    }

    /// Drops what could not be valid any more.
    pub(crate) fn forget(&mut self, now_unix_ms: i64) {
        let keep = |forget_after_ms: i64| forget_after_ms >= now_unix_ms;
        self.everybody = self.everybody.filter(|cut| keep(cut.forget_after_ms));
        self.tenants.retain(|_, tenant| {
            tenant.tokens.retain(|_, forget_after_ms| keep(*forget_after_ms));
            tenant.users.retain(|_, cut| keep(cut.forget_after_ms));
            tenant.everybody = tenant.everybody.filter(|cut| keep(cut.forget_after_ms));
            tenant.len() > 0
        });
        self.len = self.tenants.values().map(TenantRevocations::len).sum();
    }

    /// Gives up precision for room; see the file's head.
    fn coarsen(&mut self, now_unix_ms: i64) {
        let Some(largest) = self.tenants.values_mut().max_by_key(|tenant| tenant.len()) else { return };
        let issued_before_ms = now_unix_ms.saturating_add(self.leeway_ms).saturating_add(1);
        if largest.len() > 1 {
            let forget_after_ms = largest.latest();
            self.len -= largest.len();
            *largest = TenantRevocations {
                everybody: Some(Cut { issued_before_ms, forget_after_ms }),
                ..TenantRevocations::default()
            };
            self.len += largest.len();
            return;
        }
        let forget_after_ms = self.tenants.values().map(TenantRevocations::latest).max().unwrap_or(i64::MIN);
        let cut = Cut { issued_before_ms, forget_after_ms };
        self.everybody = Some(self.everybody.map_or(cut, |old| old.join(cut)));
        self.tenants.clear();
        self.len = 0;
    }
}
