use std::collections::BTreeMap;

use millrace_domain::EventKind;
use millrace_store::Store;
use proptest::prelude::*;

use super::*;
use crate::record::webhook_queue::{Content, Progress};
use crate::webhooks::deadline;

/// Long after what is written here happened.
const NOW_MS: i64 = 1_000_000_000;
const WEBHOOK: &str = "w";

fn waiting(lane: &str, next_ms: i64) -> Waiting {
    Waiting {
        id: "evt".into(),
        kind: EventKind::UserUpdated,
        lane: lane.into(),
        content: Content::Shared,
        time_ms: 0,
        attempts: 1,
        tried_ms: 1,
        next_ms,
    }
}

struct World {
    store: Arc<dyn Store>,
    agenda: Agenda,
    busy: HashSet<Lane>,
    fresh_ms: i64,
}

impl World {
    fn new() -> Self {
        Self { store: millrace_store::open_memory(), agenda: Agenda::default(), busy: HashSet::new(), fresh_ms: 0 }
    }

    async fn write(&self, write: impl FnOnce(&mut dyn Transaction)) {
        let mut transaction = self.store.begin(deadline()).await.unwrap();
        write(&mut *transaction);
        assert!(matches!(transaction.commit().await, millrace_store::CommitOutcome::Committed));
    }

    async fn put(&self, time_us: u64, waiting: &Waiting) {
        self.write(|transaction| webhook_queue::put(transaction, key::event(WEBHOOK, time_us, 0), waiting)).await;
    }

    async fn look(&mut self, now_ms: i64, first: usize, room: usize) -> Due {
        let mut transaction = self.store.begin(deadline()).await.unwrap();
        let at = Looking { webhook: WEBHOOK, busy: &self.busy, fresh_ms: self.fresh_ms, now_ms };
        self.agenda.look(&mut *transaction, &at, first, room).await.unwrap()
    }
}

fn lanes(due: &Due) -> Vec<&str> {
    due.events.iter().map(|(lane, _)| lane.as_str()).collect()
}

/// What waits after a failure is read once, not with every request that ends.
#[tokio::test]
async fn lanes_that_wait_are_not_read_again() {
    let mut world = World::new();
    let count = 2_000;
    world
        .write(|transaction| {
            for number in 0..count {
                let row = key::event(WEBHOOK, number, 0);
                // Each has another one behind it.
                webhook_queue::put(transaction, row, &waiting(&format!("user:{}", number % 1_000), NOW_MS + 10));
            }
        })
        .await;
    let due = world.look(NOW_MS, 0, 8).await;
    assert!(due.events.is_empty() && due.rows == 2_000 && due.next_ms == Some(NOW_MS + 10), "{}", due.rows);
    world.put(count, &waiting("user:new", 0)).await;
    let due = world.look(NOW_MS, 0, 8).await;
    assert_eq!(lanes(&due), ["user:new"]);
    assert!(due.rows <= 256, "only the end, which may have grown: {}", due.rows);
    assert_eq!(due.next_ms, Some(NOW_MS + 10));
    let due = world.look(NOW_MS + 10, 0, 3).await;
    assert_eq!(lanes(&due), ["user:0", "user:1", "user:2"], "their time has come");
    let due = world.look(NOW_MS, 0, 3).await;
    assert_eq!(lanes(&due), ["user:new"]);
    world.fresh_ms = 2;
    assert_eq!(lanes(&world.look(NOW_MS, 0, 2).await), ["user:0", "user:1"], "the endpoint is back");
}

/// A lane with a long queue is read where it is told, and not to its end.
#[tokio::test]
async fn what_is_behind_is_not_read_again() {
    let mut world = World::new();
    world
        .write(|transaction| {
            for number in 0..2_000 {
                webhook_queue::put(transaction, key::event(WEBHOOK, number, 0), &waiting("user:hot", 0));
            }
        })
        .await;
    world.look(NOW_MS, 0, 8).await;
    for round in 0..20 {
        let due = world.look(NOW_MS, 0, 8).await;
        let (_, told) = &due.events[0];
        assert!(!told.is_empty() && due.rows <= 512, "{round}: {} of {}", told.len(), due.rows);
        assert_eq!(told[0].0, key::event(WEBHOOK, round * 32, 0), "in order");
        world
            .write(|transaction| {
                for (row, _) in told {
                    transaction.delete(row.clone());
                }
            })
            .await;
    }
}

/// A clock that was set back does not hold an event up for as long.
#[tokio::test]
async fn what_was_tried_in_the_future_is_due() {
    let mut world = World::new();
    let ahead = Waiting { tried_ms: NOW_MS + 86_400_000, ..waiting("user:ann", NOW_MS + 86_405_000) };
    world.put(1, &ahead).await;
    world.put(2, &waiting("user:bob", NOW_MS + 5)).await;
    assert_eq!(lanes(&world.look(NOW_MS, 0, 8).await), ["user:ann"]);
}

fn channel(number: u64) -> ChannelId {
    ChannelId::new(number).unwrap()
}

/// Behind hundreds of channels that wait, one that does not is found at once, and those that wait are not asked for ever.
#[tokio::test]
async fn a_channel_behind_many_that_wait_is_found_at_once() {
    let mut world = World::new();
    let count = 3_000;
    for part in [1..1_000, 1_000..2_000, 2_000..count] {
        world
            .write(|transaction| {
                for number in part {
                    transaction.put(key::mark(WEBHOOK, channel(number)), 1_u64.to_be_bytes().to_vec().into());
                    let progress = Progress { next: 1, attempts: 1, tried_ms: 1, next_ms: NOW_MS + 600_000 };
                    webhook_queue::put_progress(transaction, WEBHOOK, channel(number), &progress);
                }
            })
            .await;
    }
    let mut looks = 0;
    loop {
        let due = world.look(NOW_MS, 4, 8).await;
        looks += 1;
        assert!(due.messages.is_empty());
        if !due.more() {
            assert_eq!(due.next_ms, Some(NOW_MS + 600_000));
            break;
        }
        assert!(looks < 10, "a round ends");
    }
    let last = channel(count);
    world.write(|transaction| transaction.put(key::mark(WEBHOOK, last), 1_u64.to_be_bytes().to_vec().into())).await;
    world.agenda.stir();
    let mut rows = 0;
    for _ in 0..2 {
        let due = world.look(NOW_MS, 4, 8).await;
        rows += due.rows;
        if !due.messages.is_empty() {
            assert_eq!(due.messages, [(last, Offset::FIRST)]);
            assert!(rows < 2 * 3_000, "their progress is known: {rows}");
            return;
        }
        assert!(due.more(), "nobody waits while there is more to look at");
    }
    panic!("not found");
}

#[derive(Debug, Clone)]
enum Step {
    Put { lane: u8, next: u8 },
    Told { room: u8 },
    Busy { lane: u8 },
    Idle,
    Pass { ms: u8 },
    Fresh,
}

/// So few that each has more events than are told at a time, on several pages.
const LANES: std::ops::Range<u8> = 0..8;

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (LANES, 0..60_u8).prop_map(|(lane, next)| Step::Put { lane, next }),
        3 => (1..9_u8).prop_map(|room| Step::Told { room }),
        1 => (LANES).prop_map(|lane| Step::Busy { lane }),
        1 => Just(Step::Idle),
        1 => (0..40_u8).prop_map(|ms| Step::Pass { ms }),
        1 => Just(Step::Fresh),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// What is remembered changes nothing of what is found: the model reads everything every time.
    #[test]
    fn a_look_finds_what_is_there(
        begin in prop::collection::vec((LANES, 0..60_u8), 300..1_200),
        steps in prop::collection::vec(step(), 1..40),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut world = World::new();
            let mut model: BTreeMap<Bytes, Waiting> = BTreeMap::new();
            let (mut now_ms, mut time_us) = (NOW_MS, 0);
            let new = |lane: u8, next: u8| waiting(&format!("user:{lane}"), NOW_MS + i64::from(next).saturating_sub(10));
            for (lane, next) in begin {
                time_us += 1;
                model.insert(key::event(WEBHOOK, time_us, 0), new(lane, next));
            }
            world.write(|transaction| {
                for (row, waiting) in &model {
                    webhook_queue::put(transaction, row.clone(), waiting);
                }
            }).await;
            for step in steps {
                match step {
                    Step::Put { lane, next } => {
                        time_us += 1;
                        world.put(time_us, &new(lane, next)).await;
                        model.insert(key::event(WEBHOOK, time_us, 0), new(lane, next));
                    }
                    Step::Busy { lane } => {
                        world.busy.insert(Lane::Events(format!("user:{lane}")));
                    }
                    Step::Idle => world.busy.clear(),
                    Step::Pass { ms } => now_ms += i64::from(ms),
                    Step::Fresh => world.fresh_ms += 1,
                    Step::Told { room } => {
                        let due = world.look(now_ms, 0, room.into()).await;
                        let mut seen = HashSet::new();
                        let mut expect = Vec::new();
                        for waiting in model.values() {
                            let is_first = seen.insert(waiting.lane.clone());
                            let is_due = waiting.tried_ms < world.fresh_ms || waiting.next_ms <= now_ms;
                            if is_first && is_due && !world.busy.contains(&Lane::Events(waiting.lane.clone())) {
                                expect.push(waiting.lane.as_str());
                            }
                        }
                        expect.truncate(room.into());
                        assert_eq!(lanes(&due), expect);
                        for (lane, told) in &due.events {
                            let rows: Vec<_> = model.iter().filter(|(_, waiting)| waiting.lane == *lane).collect();
                            assert!(!told.is_empty());
                            for ((row, _), (expect, _)) in told.iter().zip(rows) {
                                assert_eq!(row, expect, "in order, without a gap");
                            }
                            world.write(|transaction| for (row, _) in told { transaction.delete(row.clone()); }).await;
                        }
                        for (row, _) in due.events.iter().flat_map(|(_, told)| told) {
                            model.remove(row);
                        }
                    }
                }
            }
        });
    }
}

/// Another control node, whose clock is behind, keeps the first event of a lane among events that wait: it is told before the next one.
#[tokio::test]
async fn what_came_between_events_that_wait_is_told_in_order() {
    let mut world = World::new();
    let now_us = u64::try_from(NOW_MS).unwrap() * 1_000;
    let at = |number: u64| now_us - 30_000_000 + number * 10;
    world
        .write(|transaction| {
            for number in 0..300 {
                let row = key::event(WEBHOOK, at(number), 0);
                webhook_queue::put(transaction, row, &waiting(&format!("user:{number}"), NOW_MS + 10));
            }
        })
        .await;
    assert!(world.look(NOW_MS, 0, 8).await.events.is_empty());
    world.put(at(100) + 1, &waiting("user:new", 0)).await;
    world.put(at(400), &waiting("user:new", 0)).await;
    let due = world.look(NOW_MS, 0, 8).await;
    let (lane, told) = &due.events[0];
    assert_eq!(lane, "user:new");
    assert_eq!(
        told.iter().map(|(row, _)| row.clone()).collect::<Vec<_>>(),
        [at(100) + 1, at(400)].map(|at| key::event(WEBHOOK, at, 0))
    );
}
