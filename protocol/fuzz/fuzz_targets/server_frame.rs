//! A frame from a node: never a panic, never more than its limits, and what decodes means the same once encoded.
#![no_main]

use libfuzzer_sys::fuzz_target;
use millrace_protocol::Code;
use millrace_protocol::client::{
    ENDPOINTS_MAX, PAGE_MESSAGES_MAX, PAYLOAD_BYTES_CAP, SERVER_FRAME_BYTES_MAX, ServerBody, decode_server,
    encode_server,
};

fuzz_target!(|input: &[u8]| {
    let decoded = decode_server(input);
    let mut moved = vec![0];
    moved.extend_from_slice(input);
    match (&decoded, decode_server(&moved[1..])) {
        (Ok(here), Ok(there)) => assert_eq!(*here, there, "the address must not matter"),
        (Err(here), Err(there)) => assert_eq!(here.code(), there.code(), "the address must not matter"),
        (here, there) => panic!("{here:?} here and {there:?} elsewhere"),
    }
    let frame = match decoded {
        Ok(frame) => frame,
        Err(error) => {
            assert!(matches!(error.code(), Code::BadFrame | Code::TooLarge | Code::Invalid), "{error}");
            assert!(!error.to_string().is_empty());
            return;
        }
    };
    assert!(input.len() <= SERVER_FRAME_BYTES_MAX && input.len().is_multiple_of(8));
    let borrowed = match &frame.body {
        ServerBody::Welcome(welcome) => welcome.node.len(),
        ServerBody::Subscribed(subscribed) => subscribed.name.len(),
        ServerBody::Unsubscribed { reason, .. } => reason.len(),
        ServerBody::Message(message) => {
            assert!(message.body.len() <= PAYLOAD_BYTES_CAP);
            message.user.len() + message.body.len()
        }
        ServerBody::Page { messages, .. } => {
            assert!(messages.len() <= PAGE_MESSAGES_MAX);
            messages.iter().map(|message| message.user.len() + message.body.len()).sum()
        }
        ServerBody::Error { message, channel, .. } => message.len() + channel.len(),
        ServerBody::GoAway { endpoints, .. } => {
            assert!(endpoints.len() <= ENDPOINTS_MAX);
            endpoints.iter().map(|endpoint| endpoint.len()).sum()
        }
        ServerBody::Published(_)
        | ServerBody::Refreshed { .. }
        | ServerBody::Ping
        | ServerBody::Skipped { .. }
        | ServerBody::Read { .. } => 0,
        ServerBody::Unknown => return,
    };
    assert!(borrowed <= input.len(), "a frame never means more than it has");
    let mut encoded = Vec::new();
    encode_server(&frame, &mut encoded);
    assert_eq!(decode_server(&encoded).expect("what was encoded decodes"), frame);
});
