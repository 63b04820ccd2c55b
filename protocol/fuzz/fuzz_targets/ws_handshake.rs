//! The opening handshake of both sides, in reads of any size: the same outcome as in one read, and answers that are one
//! well-formed HTTP head each.
#![no_main]

use libfuzzer_sys::fuzz_target;
use millrace_protocol::ws::handshake::{
    ClientHandshake, ClientRequest, Endpoint, HEAD_BYTES_MAX, HEADERS_MAX, ServerHandshake,
};
use millrace_protocol_fuzz::stream_and_reads;

const SUBPROTOCOLS: [&str; 2] = ["millrace.v1", "echo"];

/// Feeds reads until the handshake says something; consumed bytes are counted from the start of the stream.
fn outcome<'a, T, E>(
    reads: impl Iterator<Item = &'a [u8]>,
    mut feed: impl FnMut(&[u8]) -> Result<Option<T>, E>,
    consumed: impl Fn(&mut T) -> &mut usize,
) -> Result<Option<T>, E> {
    let mut before = 0;
    for read in reads {
        if let Some(mut done) = feed(read)? {
            let consumed = consumed(&mut done);
            assert!(*consumed <= read.len());
            *consumed += before;
            assert!(*consumed <= HEAD_BYTES_MAX);
            return Ok(Some(done));
        }
        before += read.len();
        assert!(before <= HEAD_BYTES_MAX, "a head that is too long is refused as soon as it is");
    }
    Ok(None)
}

fn is_one_head(response: &[u8], has_body: bool) {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut parsed = httparse::Response::new(&mut headers);
    let status = parsed.parse(response).expect("a response is well formed");
    let httparse::Status::Complete(head) = status else { panic!("a response is whole") };
    let length = parsed.headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-length"));
    assert_eq!(length.is_some(), has_body);
    if let Some(length) = length {
        let length = std::str::from_utf8(length.value).expect("digits").parse::<usize>().expect("digits");
        assert_eq!(response.len() - head, length);
    } else {
        assert_eq!(response.len(), head);
    }
}

fuzz_target!(|input: &[u8]| {
    let Some((&choice, input)) = input.split_first() else { return };
    let Some((stream, reads)) = stream_and_reads(input) else { return };
    if choice & 1 == 0 {
        let path = (choice & 2 == 0).then_some("/v1/connect");
        let subprotocols = if choice & 4 == 0 { &SUBPROTOCOLS[..] } else { &[] };
        let endpoint = Endpoint { path, subprotocols };
        let mut handshake = ServerHandshake::new();
        let cut = outcome(reads, |read| handshake.feed(read, &endpoint), |request| &mut request.consumed);
        let mut handshake = ServerHandshake::new();
        let whole =
            outcome(std::iter::once(stream), |read| handshake.feed(read, &endpoint), |request| &mut request.consumed);
        assert_eq!(cut, whole, "how it was cut must not matter");
        match whole {
            Ok(None) => {}
            Ok(Some(mut request)) => {
                if choice & 8 != 0 {
                    request.agree();
                }
                assert!(path.is_none_or(|path| path == request.path));
                assert_eq!(request.subprotocol.is_some(), !subprotocols.is_empty());
                assert!(request.subprotocol.as_deref().is_none_or(|chosen| subprotocols.contains(&chosen)));
                is_one_head(&request.response(), false);
            }
            Err(error) => {
                assert!((400..=431).contains(&error.status()), "{error}");
                is_one_head(&error.response(), true);
            }
        }
    } else {
        let start = || {
            let nonce = [choice; 16];
            let target = "/v1/connect";
            let request = ClientRequest { host: "localhost", target, subprotocols: &SUBPROTOCOLS, nonce };
            let begun = if choice & 2 == 0 {
                ClientHandshake::new(&request)
            } else {
                ClientHandshake::offering_deflate(&request)
            };
            begun.expect("the request can be written").0
        };
        let (mut in_reads, mut at_once) = (start(), start());
        let cut = outcome(reads, |read| in_reads.feed(read), |accepted| &mut accepted.consumed);
        let whole = outcome(std::iter::once(stream), |read| at_once.feed(read), |accepted| &mut accepted.consumed);
        match (cut, whole) {
            // What a server says in a refusal is shown as far as it came along with the head.
            (Err(cut), Err(whole)) => assert_eq!(std::mem::discriminant(&cut), std::mem::discriminant(&whole)),
            (cut, whole) => assert_eq!(cut, whole, "how it was cut must not matter"),
        }
    }
});
