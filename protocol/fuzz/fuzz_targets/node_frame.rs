//! A frame of the control link: never a panic, bodies that share the input, and what decodes means the same once encoded.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use millrace_protocol::node::{NodeBody, decode, encode, encoded_bytes_max};

fuzz_target!(|input: &[u8]| {
    let input = Bytes::copy_from_slice(input);
    let Ok(frame) = decode(input.clone()) else { return };
    let shares = |body: &Bytes| body.is_empty() || input.as_ptr_range().contains(&body.as_ptr());
    match &frame.body {
        NodeBody::Unknown => return,
        NodeBody::Append(appends) => {
            assert!(appends.iter().flat_map(|append| &append.messages).all(|message| shares(&message.body)));
        }
        NodeBody::History(history) => {
            assert!(history.messages.iter().all(|stored| shares(&stored.message.body)));
        }
        NodeBody::Publish(order) => assert!(shares(&order.message.body)),
        _ => {}
    }
    let mut encoded = Vec::new();
    encode(&frame, &mut encoded);
    assert!(encoded.len() <= encoded_bytes_max(&frame), "the bound holds");
    assert!(encoded.len() + 192 >= encoded_bytes_max(&frame), "the bound is close");
    assert_eq!(decode(encoded.into()).expect("what was encoded decodes"), frame);
});
