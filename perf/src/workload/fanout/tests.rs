//! Who gets what, and whose fault it is when it comes late.

use super::*;

#[test]
fn every_seat_of_every_channel_is_taken_by_another_client() {
    for (channels, subscribers, clients_max, clients) in [
        (1, 1000, None, 1000),
        (1000, 10, None, 10_000),
        (1000, 10, Some(500), 500),
        (7, 3, Some(5), 5),
        (4, 10, Some(3), 10),
        (10, 10, Some(10), 10),
    ] {
        let crowd = Crowd::new(channels, subscribers, clients_max);
        assert_eq!(crowd.clients, clients);
        let mut seats = vec![0; usize::try_from(crowd.seats()).expect("few")];
        for client in 0..clients {
            let own = crowd.channels_of(client);
            for &channel in &own {
                let seat = crowd.seat(client as usize, channel.into()).expect("it subscribes to it");
                assert_eq!(seat / u64::from(subscribers), u64::from(channel));
                seats[usize::try_from(seat).expect("few")] += 1;
            }
            let others = (0..channels).filter(|channel| !own.contains(channel));
            assert!(others.take(50).all(|other| crowd.seat(client as usize, other.into()).is_none()));
            assert!(crowd.channels_of_user(client % crowd.users()).iter().any(|channel| own.contains(channel)));
        }
        assert!(seats.iter().all(|&taken| taken == 1), "{channels} channels of {subscribers}, {clients} clients");
        assert_eq!(crowd.seat(clients as usize, 0), None, "a publisher");
    }
}

#[test]
fn users_beyond_the_bound_come_with_several_devices() {
    let crowd = Crowd::new(1, 15_000, None);
    assert_eq!((crowd.users(), crowd.channels_of_user(4_999)), (USERS_MAX, vec![0]));
    let crowd = Crowd::new(10_000, 1, None);
    assert_eq!(crowd.channels_of_user(1), [1, 5_001], "the channels of both");
}

#[test]
fn a_message_is_known_by_when_it_is_due() {
    for rate in [0.5, 1.0, 3.0, 300.0, 77_777.7, 1e6] {
        let schedule = Schedule { first_ns: 12_345, interval_ns: 1e9 / rate, messages: 5_000 };
        for number in (0..5_000).step_by(7) {
            assert_eq!(schedule.number(schedule.due_ns(number)), Some(number), "{rate}/s");
        }
        for none in [0, 12_344, 12_346, schedule.due_ns(5_000)] {
            assert_eq!(schedule.number(none), None, "{rate}/s, {none}");
        }
    }
}

fn arrivals() -> Arrivals {
    let mut sink = Arrivals::new(Crowd::new(2, 3, None)).expect("small");
    sink.ledger = Ledger::new(6, 2).expect("small");
    sink.begin(Schedule { first_ns: 1_000, interval_ns: 100.0, messages: 4 });
    sink
}

#[test]
fn each_delivery_is_accounted_for_by_client_and_message() {
    let mut sink = arrivals();
    // Messages 0 and 2 go to the first channel and its clients 0 to 2; client 0 gets one of them twice and never the other.
    for (client, intended_ns) in [(0, 1_000), (0, 1_000), (1, 1_000), (1, 1_200), (2, 1_000), (2, 1_200)] {
        sink.delivered(client, intended_ns, 9_000);
    }
    assert_eq!((sink.ledger.came(), sink.ledger.again()), (5, 1), "six came, one is missing");
    assert_eq!(sink.latencies.len(), 5);
    sink.delivered(0, 900, 9_000);
    sink.ledger.check().expect("what comes late from before is no fault");
}

#[test]
fn what_reaches_the_wrong_client_ends_the_run() {
    for (client, intended_ns, what) in
        [(3, 1_000, "of another channel"), (0, 1_050, "never sent"), (6, 1_000, "to a publisher")]
    {
        let mut sink = arrivals();
        sink.delivered(client, intended_ns, 9_000);
        sink.ledger.check().expect_err(what);
    }
}

#[test]
fn who_was_sent_away_is_told_from_what_went_wrong() {
    let mut sink = arrivals();
    let ended = sink.closed(1, Some(4201), "the queue is full").expect_err("it was to stay");
    assert!(ended.is::<Closed>(), "a search for saturation goes on behind it: {ended}");
    sink.delivered(0, 1_050, 9_000);
    assert!(!sink.ledger.check().expect_err("never sent").is::<Closed>());
}

#[test]
fn being_held_back_is_told_from_being_late() {
    let mut punctuality = Punctuality::default();
    // Due at 1 ms, but the subject took nothing until 41 ms; it went out 2 ms later.
    punctuality.blocked(41_000_000);
    punctuality.sent(1_000_000, 43_000_000);
    let ms = |histogram: &Histogram<u64>| quantile_ms(histogram, 1.0).round();
    assert_eq!((ms(&punctuality.held_back), ms(&punctuality.late)), (40.0, 2.0));
    // What was due after that is the load generator's own lateness, all of it.
    let mut punctuality = Punctuality { blocked_ns: 41_000_000, ..Punctuality::default() };
    punctuality.sent(50_000_000, 57_000_000);
    assert_eq!((ms(&punctuality.held_back), ms(&punctuality.late)), (0.0, 7.0));
}

#[test]
fn only_lateness_of_its_own_binds_the_load_generator() {
    let found = |late_ms: u64, held_ms: u64| {
        let (mut latencies, mut punctuality) = (histogram(), Punctuality::default());
        latencies.saturating_record(60_000);
        punctuality.late.saturating_record((late_ms * 1_000).max(1));
        punctuality.held_back.saturating_record((held_ms * 1_000).max(1));
        let load = crate::process::Turns::default();
        let cost = Cost { wall: Duration::from_secs(1), cpu: None, others: None, braked: None, load };
        Found { latencies, punctuality, expected: 1, delivered: 1, again: 0, during: Duration::from_secs(1), cost }
    };
    assert!(found(50, 0).load_bound());
    assert!(!found(0, 50).load_bound(), "the subject took nothing: that is its own limit");
    assert!(!found(20, 0).load_bound());
}
