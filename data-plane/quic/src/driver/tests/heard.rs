//! What a client acknowledges tells of it.

use std::time::Duration;

use millrace_core::Place;

use super::hello;
use super::world::{Link, World, frame};
use crate::{Key, Limits};

/// Somebody has signed in on the connection.
pub(super) fn sign_in(world: &mut World) -> Key {
    let key = world.server.session.as_ref().expect("a session").key();
    world.drivers[world.server.shard].signed_in(key);
    key
}

#[test]
fn what_a_client_acknowledges_is_told_once() {
    for seed in [30, 31] {
        let mut world = World::new(seed, 1, Limits::default(), Link::default());
        world.connect();
        world.client_writes(&hello());
        world.run_until("the hello came", |world| world.server.frames.len() == 1);
        // It may send more from here on, and is told so.
        let key = sign_in(&mut world);
        world.run_for(Duration::from_secs(1));
        assert!(world.drivers[0].has_acknowledged(key), "it was sent something in the handshake");
        world.run_for(Duration::from_secs(1));
        assert!(!world.drivers[0].has_acknowledged(key));
        assert!(world.offer(Place::Control, frame(2, 3)));
        world.run_for(Duration::from_secs(1));
        assert!(world.drivers[0].has_acknowledged(key));
        assert!(!world.drivers[0].has_acknowledged(key));
        assert_eq!(world.client.control.len(), 1);
    }
}
