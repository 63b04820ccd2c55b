use millrace_protocol::client::decode_server;
use millrace_protocol::code::Code;

use super::*;
use crate::run::payloads;
use crate::run::tests::{run, run_of};

/// What a reader who takes everything would see.
fn frames(outbound: &Outbound) -> Vec<String> {
    let bytes: Vec<u8> = outbound.segments().flatten().copied().collect();
    let frames: Vec<String> = payloads(&bytes)
        .map(|payload| match decode_server(payload).unwrap().body {
            ServerBody::Message(message) => format!("{}:{}", message.channel, message.position.offset),
            ServerBody::Skipped { channel, first, last } => format!("{channel}:skip {}-{}", first.offset, last.offset),
            ServerBody::Ping => "ping".into(),
            ServerBody::Error { code, .. } => format!("error {code}"),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(bytes.len(), outbound.queued_bytes(), "every byte is counted");
    frames
}

fn push_runs(outbound: &mut Outbound, channel: u64, offsets: impl IntoIterator<Item = u64>) {
    for offset in offsets {
        outbound.push_run(&Rc::new(run_of(channel, offset, &[10])));
    }
}

fn ping(outbound: &mut Outbound) {
    outbound.push_control(&mut Vec::new(), &ServerFrame { request: 0, body: ServerBody::Ping }, ControlKind::Plain);
}

#[test]
fn what_is_written_leaves_in_order_and_byte_by_byte() {
    let mut outbound = Outbound::default();
    push_runs(&mut outbound, 1, 1..4);
    ping(&mut outbound);
    ping(&mut outbound);
    push_runs(&mut outbound, 1, 4..6);
    let mut expect: Vec<u8> = outbound.segments().flatten().copied().collect();
    assert_eq!(outbound.segments().count(), 6, "control frames are joined");
    for step in [1, 5, 200, 3, 100].into_iter().cycle() {
        if outbound.is_empty() {
            break;
        }
        let step = step.min(outbound.queued_bytes());
        outbound.advance(0, step, false);
        expect.drain(..step);
        let left: Vec<u8> = outbound.segments().flatten().copied().collect();
        assert_eq!(left, expect);
        assert_eq!(outbound.queued_bytes(), left.len());
    }
    assert_eq!((outbound.data_bytes(), outbound.control_frames(), outbound.rest.capacity()), (0, 0, 0));
}

#[test]
fn a_skipping_channel_keeps_its_newest_and_tells_the_gap() {
    let mut outbound = Outbound::default();
    push_runs(&mut outbound, 1, 1..4);
    push_runs(&mut outbound, 2, 7..8);
    outbound.advance(0, 5, true);
    let max = outbound.data_bytes();
    let one = u32::try_from(run(1, &[10]).len()).unwrap();
    let skip = |outbound: &mut Outbound, offset: u64, max: u32| {
        outbound.push_skipping(&mut Vec::new(), &Rc::new(run_of(1, offset, &[10])), max).messages
    };
    // 2 and 3 make room for 4; 1 is partly written and stays.
    assert_eq!(skip(&mut outbound, 4, max), 2);
    let after_first = |outbound: &Outbound| {
        let mut copy: Vec<u8> = outbound.segments().flatten().copied().collect();
        copy.drain(..one as usize - 5);
        payloads(&copy).count()
    };
    assert_eq!(after_first(&outbound), 3, "2:7, the mark, 1:4");
    // No room at all: everything of the channel becomes one mark that grows.
    assert_eq!(skip(&mut outbound, 5, one), 2);
    assert_eq!(skip(&mut outbound, 6, one), 1);
    outbound.advance(0, one as usize - 5, true);
    assert_eq!(frames(&outbound), ["2:7", "1:skip 2-6"]);
    assert_eq!(outbound.control_frames(), 1);
    // Room again.
    assert_eq!(skip(&mut outbound, 7, one), 1);
    outbound.advance(0, one as usize, false);
    push_runs(&mut outbound, 1, 8..9);
    assert_eq!(frames(&outbound), ["1:skip 2-7", "1:8"]);
}

#[test]
fn ending_drops_all_but_the_rest_of_a_frame() {
    let check = |written: usize, left: usize| {
        let mut outbound = Outbound::default();
        outbound.push_run(&Rc::new(run(1, &[10, 10, 10])));
        ping(&mut outbound);
        outbound.advance(0, written, true);
        outbound.drop_all();
        assert_eq!(outbound.queued_bytes(), left, "{written}");
        assert_eq!(outbound.segments().map(<[u8]>::len).sum::<usize>(), left);
        outbound.advance(0, left, false);
        assert!(outbound.is_empty());
    };
    let one = run(1, &[10]).len();
    check(0, 0);
    check(1, one - 1);
    check(one, 0);
    check(one + 3, one - 3);
    check(3 * one, 0);
}

#[test]
fn a_channel_can_be_dropped_even_in_front() {
    let mut outbound = Outbound::default();
    push_runs(&mut outbound, 1, 1..3);
    push_runs(&mut outbound, 2, 1..2);
    let body = ServerBody::error(Code::Busy, "");
    outbound.push_control(&mut Vec::new(), &ServerFrame { request: 1, body }, ControlKind::Plain);
    outbound.drop_channel(ChannelId::new(1).unwrap());
    assert_eq!(frames(&outbound), ["2:1", "error 4101"]);
    outbound.drop_channel(ChannelId::new(2).unwrap());
    assert_eq!(frames(&outbound), ["error 4101"]);
    assert_eq!(outbound.data_bytes(), 0);
}

#[test]
fn of_a_dropped_channel_only_the_frame_under_way_is_finished() {
    let one = run(1, &[10]).len();
    let check = |written: usize, left: usize| {
        let mut outbound = Outbound::default();
        outbound.push_run(&Rc::new(run(1, &[10, 10, 10])));
        ping(&mut outbound);
        let pong = outbound.queued_bytes() - 3 * one;
        outbound.advance(0, written, true);
        outbound.drop_channel(ChannelId::new(9).unwrap());
        assert_eq!(outbound.queued_bytes(), left + pong, "{written}");
        outbound.advance(0, left, false);
        assert_eq!((frames(&outbound), outbound.data_bytes()), (vec!["ping".into()], 0));
    };
    check(0, 0);
    check(5, one - 5);
    check(one, 0);
    check(one + 1, one - 1);
}

#[test]
fn pages_count_as_data_and_stalls_are_seen() {
    let mut outbound = Outbound::default();
    outbound.push_page(ChannelId::new(1).unwrap(), 1, vec![0x82, 3, 1, 2, 3]);
    assert_eq!((outbound.data_bytes(), outbound.control_frames(), outbound.queued_bytes()), (5, 1, 5));
    outbound.advance(10, 1, true);
    outbound.advance(20, 0, true);
    assert_eq!(outbound.stalled_since(), Some(10));
    outbound.advance(30, 1, true);
    assert_eq!(outbound.stalled_since(), Some(30));
    outbound.advance(40, 3, false);
    assert_eq!((outbound.stalled_since(), outbound.data_bytes(), outbound.control_frames()), (None, 0, 0));
}

#[test]
fn pages_that_nobody_may_see_any_more_are_dropped() {
    let channel = |number| ChannelId::new(number).unwrap();
    let page = |outbound: &mut Outbound, of: u64, request: u32| {
        outbound.push_page(channel(of), request, vec![0x82, 1, 0]);
    };
    let mut outbound = Outbound::default();
    page(&mut outbound, 1, 5);
    page(&mut outbound, 1, 6);
    push_runs(&mut outbound, 2, 1..2);
    page(&mut outbound, 2, 7);
    page(&mut outbound, 1, 8);
    outbound.advance(0, 1, true);
    assert_eq!(outbound.drop_pages(channel(1)), [6, 8], "the first is partly written");
    outbound.advance(0, 2, true);
    assert_eq!(outbound.drop_pages(channel(2)), [7]);
    assert_eq!((frames(&outbound), outbound.control_frames()), (vec!["2:1".into()], 0));
    page(&mut outbound, 2, 9);
    outbound.drop_channel(channel(2));
    assert_eq!(outbound.drop_pages(channel(2)), [9], "in front");
    assert!(outbound.is_empty() && outbound.queued_bytes() == 0);
}
