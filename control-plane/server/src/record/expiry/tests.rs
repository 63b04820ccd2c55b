use std::sync::Arc;

use millrace_protocol::id::{TenantId, UserId};
use millrace_protocol::node::{RevokedTokens, TokensRevoked};
use millrace_store::open_memory;

use super::*;
use crate::record::idempotency::{self, Answer};
use crate::record::refresh_token::{self, RefreshToken};
use crate::record::revocation;

const HOUR: i64 = HOUR_MS;

async fn write(store: &Arc<dyn Store>, body: impl Fn(&mut dyn Transaction)) {
    let deadline = Instant::now() + DEADLINE;
    let written: Result<(), TransactError> = transact!(&**store, deadline, |transaction| {
        body(transaction);
        Ok(())
    });
    written.unwrap();
}

async fn rows(store: &Arc<dyn Store>) -> usize {
    let everything = millrace_store::KeyRange { start: Bytes::new(), end: Bytes::from_static(&[0xFF]) };
    let mut transaction = store.begin(Instant::now() + DEADLINE).await.unwrap();
    let rows = transaction.scan(everything, Direction::Forward, 4096).await.unwrap();
    // How far the sweep came is no record.
    rows.iter().filter(|(key, _)| key[0] != b'x').count()
}

fn answer() -> Answer {
    Answer { request: [1; 32], sealed: vec![2; 40] }
}

#[tokio::test]
async fn what_has_expired_goes_and_nothing_else() {
    let store = open_memory();
    for number in 0..40u8 {
        write(&store, |transaction| {
            idempotency::put(transaction, [number; 16], HOUR * i64::from(number), &answer());
        })
        .await;
    }
    assert_eq!(rows(&store).await, 80);
    let swept = sweep(&*store, 20 * HOUR, 1_000).await.unwrap();
    // Number 20 ends at this very hour and is entered under the next one.
    assert_eq!(swept, Swept { removed: 20, outdated: 0 });
    assert_eq!(rows(&store).await, 40);
    assert_eq!(sweep(&*store, 20 * HOUR, 1_000).await.unwrap(), Swept::default(), "nothing is swept twice");
    let mut transaction = store.begin(Instant::now() + DEADLINE).await.unwrap();
    assert_eq!(idempotency::get(&mut *transaction, [30; 16], 29 * HOUR).await.unwrap(), Some(answer()));
    assert_eq!(
        idempotency::get(&mut *transaction, [30; 16], 30 * HOUR).await.unwrap(),
        None,
        "ended before it is swept"
    );
}

#[tokio::test]
async fn a_life_that_was_prolonged_is_kept() {
    let store = open_memory();
    let revoke = |forget_after_ms| TokensRevoked {
        tenant: TenantId::new(1).unwrap(),
        which: RevokedTokens::Token("t".into()),
        forget_after_ms,
    };
    write(&store, |transaction| revocation::put(transaction, &revoke(HOUR))).await;
    write(&store, |transaction| revocation::put(transaction, &revoke(9 * HOUR))).await;
    assert_eq!(sweep(&*store, 5 * HOUR, 1_000).await.unwrap(), Swept { removed: 0, outdated: 1 });
    let mut transaction = store.begin(Instant::now() + DEADLINE).await.unwrap();
    let user = UserId::new("ann").unwrap();
    let found = revocation::of_token(&mut *transaction, TenantId::new(1).unwrap(), &user, "t").await.unwrap();
    assert_eq!(found, [revoke(9 * HOUR)]);
    assert_eq!(sweep(&*store, 10 * HOUR, 1_000).await.unwrap(), Swept { removed: 1, outdated: 0 });
    assert_eq!(rows(&store).await, 0);
}

#[tokio::test]
async fn a_refresh_token_leaves_the_list_of_its_user() {
    let store = open_memory();
    let record = RefreshToken {
        id: "abc".into(),
        tenant: TenantId::new(1).unwrap(),
        user: UserId::new("ann").unwrap(),
        roles: vec![],
        device: None,
        ttl_ms: 1,
        secret_sha256: String::new(),
        previous_sha256: None,
    };
    write(&store, |transaction| refresh_token::put(transaction, HOUR, &record)).await;
    assert_eq!(rows(&store).await, 3);
    assert_eq!(sweep(&*store, 3 * HOUR, 1_000).await.unwrap(), Swept { removed: 1, outdated: 0 });
    assert_eq!(rows(&store).await, 0);
}

#[tokio::test]
async fn a_sweep_is_bounded_and_goes_on_where_it_stopped() {
    let store = open_memory();
    for number in 0..250u16 {
        let mut fingerprint = [0; 16];
        fingerprint[..2].copy_from_slice(&number.to_be_bytes());
        write(&store, |transaction| idempotency::put(transaction, fingerprint, HOUR, &answer())).await;
    }
    let first = sweep(&*store, 5 * HOUR, 1).await.unwrap().removed;
    assert!((1..250).contains(&first), "one batch of one shard, not {first}");
    let mut removed = first;
    while rows(&store).await > 0 {
        removed += sweep(&*store, 5 * HOUR, 100).await.unwrap().removed;
    }
    assert_eq!(removed, 250);
}
