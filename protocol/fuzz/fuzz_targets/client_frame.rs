//! A frame from a client: never a panic, never more than its limits, and what decodes means the same once encoded.
#![no_main]

use libfuzzer_sys::fuzz_target;
use millrace_protocol::Code;
use millrace_protocol::client::{
    AGENT_BYTES_MAX, CLIENT_FRAME_BYTES_MAX, ClientBody, SUBSCRIPTIONS_CAP, TOKEN_BYTES_MAX, decode_client,
    encode_client,
};

fuzz_target!(|input: &[u8]| {
    let decoded = decode_client(input);
    let mut moved = vec![0];
    moved.extend_from_slice(input);
    match (&decoded, decode_client(&moved[1..])) {
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
    assert!(input.len() <= CLIENT_FRAME_BYTES_MAX && input.len().is_multiple_of(8));
    let borrowed = match &frame.body {
        ClientBody::Hello(hello) => {
            assert!(hello.subscriptions.len() <= SUBSCRIPTIONS_CAP);
            assert!(hello.token.len() <= TOKEN_BYTES_MAX && hello.agent.len() <= AGENT_BYTES_MAX);
            hello.token.len()
                + hello.agent.len()
                + hello.subscriptions.iter().map(|one| one.channel.len()).sum::<usize>()
        }
        ClientBody::Subscribe(subscribe) => subscribe.channel.len(),
        ClientBody::Publish(publish) => publish.body.len(),
        ClientBody::Refresh { token } => token.len(),
        ClientBody::Unsubscribe { .. } | ClientBody::History(_) | ClientBody::Pong | ClientBody::MarkRead { .. } => 0,
        ClientBody::Unknown => return,
    };
    assert!(borrowed <= input.len(), "a frame never means more than it has");
    let mut encoded = Vec::new();
    encode_client(&frame, &mut encoded);
    assert_eq!(decode_client(&encoded).expect("what was encoded decodes"), frame);
});
