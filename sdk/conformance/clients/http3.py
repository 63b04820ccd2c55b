"""Cases of WebTransport alone: HTTP/3 in right and wrong forms."""

import asyncio

from aioquic.asyncio import connect
from aioquic.buffer import encode_uint_var
from aioquic.h3.connection import ErrorCode, FrameType, H3Connection, encode_frame
from aioquic.quic.events import StreamDataReceived

from quic_session import (
    CLOSE_SESSION,
    CONNECT,
    HOST,
    PORT,
    TIMEOUT_SECONDS,
    WebSession,
    case,
    configuration,
    encoded,
    open_connection,
    open_session,
    options,
)
from session import PATH, encode, hello
from suite import Failure, equal, require


@case("HTTP/3: every draft's number says that WebTransport is served", over="webtransport")
async def _():
    async with open_session() as session:
        found = session.http.received_settings
        ours = [0x8, 0x33, 0xFFD277, 0x2B603742, 0x2B603743, 0xC671706A, 0x14E9CD29, 0x2C7CF000]
        equal({number: found.get(number) for number in ours}, dict.fromkeys(ours, 1), "settings")
        equal(found.get(1, 0), 0, "no dynamic table")


async def check_refused(session, change, status):
    stream, found = await session.fetch({**CONNECT, **change}, end=True)
    answer = await session.answer(stream)
    await asyncio.wait_for(answer["ended"].wait(), TIMEOUT_SECONDS)
    equal(found, status, f"status of {change}")
    equal(answer["fields"]["content-type"], "text/plain", "kind of the body")
    equal(int(answer["fields"]["content-length"]), len(answer["body"]), "length of the body")
    require(answer["body"], "an answer says something to a person")


DOCUMENT = {":method": "GET", ":protocol": None}


@case("HTTP/3: what opens no session is answered, and the connection goes on", over="webtransport")
async def _():
    async with open_connection() as session:
        for change, status in [
            ({**DOCUMENT, ":path": "/"}, 404),
            ({":path": "/v1/other"}, 404),
            (DOCUMENT, 405),
            ({":method": "POST", ":protocol": None}, 405),
            ({":protocol": "websocket"}, 501),
            ({":scheme": "http"}, 400),
            ({":path": "/v1/other", "x-long": "~" * 3000}, 404),
            ({"x-long": "~" * 9000}, 431),
        ]:
            await check_refused(session, change, status)
        await session.begin()
        await session.ask("welcome", hello=hello(options.token))
        await check_refused(session, {}, 429)
        await session.subscribe()


@case("HTTP/3: a query behind the path, and the protocol's later name", over="webtransport")
async def _():
    for change in [{":path": PATH + "?a=b"}, {":protocol": "webtransport-h3"}]:
        async with open_connection() as session:
            _, status = await session.fetch({**CONNECT, **change})
            equal(status, 200, f"status of {change}")


@case("HTTP/3: the session's stream may come before its request, and either byte by byte", over="webtransport")
async def _():
    async with open_connection() as session:
        session.control, session.request = session.next_stream(), 4
        first = encode_uint_var(FrameType.WEBTRANSPORT_STREAM) + encode_uint_var(4)
        for byte in first + encode(1, hello=hello(options.token)):
            session.send_on(session.control, bytes([byte]))
        equal(session.next_stream(), 4, "stream of the request")
        request = encode_frame(FrameType.HEADERS, session.http._encode_headers(4, encoded(CONNECT)))
        for byte in request:
            session.send_on(4, bytes([byte]))
        equal((await session.answer(4))["status"], 200, "status")
        await session.until(lambda _, request, *rest: (request, rest[0]) == (1, "welcome"))


@case("HTTP/3: frames, streams, capsules and datagrams that nobody knows are passed over", over="webtransport")
async def _():
    async with open_session() as session:
        session.send_on(session.next_stream(True), encode_uint_var(0x21 + 0x1F * 7) + b"grease")
        session.send_on(session.http._local_control_stream_id, encode_frame(0x21, b"grease") + encode_frame(7, b"\0"))
        session.send_on(session.request, encode_frame(0x40, b"unknown"))
        session.send_capsule(0x78AE, b"")
        session.send_capsule(0x190B4D3D, encode_uint_var(1000))
        session._quic.send_datagram_frame(encode_uint_var(9) + encode(0, pong=None))
        await session.subscribe()


@case("HTTP/3: the client's close is followed, with words and without", over="webtransport")
async def _():
    for goodbye in [
        lambda session: session.send_capsule(CLOSE_SESSION, bytes(4) + b"enough"),
        lambda session: session.send_capsule(CLOSE_SESSION, bytes(4), end=True),
        lambda session: session.send_on(session.request, b"", end=True),
    ]:
        async with open_session() as session:
            goodbye(session)
            await session.ends_with(ErrorCode.H3_NO_ERROR)


@case("HTTP/3: after its close the node waits for the client, but not for long", over="webtransport")
async def _():
    async with open_session() as session:
        session.send_bytes(b"", end=True)
        equal(await asyncio.wait_for(session.closed, TIMEOUT_SECONDS), (0, None, ""), "close")
        require(not session.terminated.done(), "the connection is still there")
        await session.ends_with(ErrorCode.H3_NO_ERROR)


@case("HTTP/3: a second stream of the session ends it with 4000", over="webtransport")
async def _():
    for is_unidirectional in [False, True]:
        async with open_session() as session:
            session.http.create_webtransport_stream(session.request, is_unidirectional)
            session.transmit()
            equal((await asyncio.wait_for(session.closed, TIMEOUT_SECONDS))[0], 4000, "code of the close")


@case("HTTP/3: to stop a channel's stream ends the session with 4000", over="webtransport")
async def _():
    async with open_session() as session:
        stream, _ = await session.subscribe()
        session._quic.stop_stream(stream, 0)
        session.transmit()
        equal((await asyncio.wait_for(session.closed, TIMEOUT_SECONDS))[0], 4000, "code of the close")


def on(stream, data, end=False):
    return lambda session: session.send_on(stream(session), data, end)


def new(session):
    return session.next_stream()


def new_uni(session):
    return session.next_stream(True)


def control(session):
    return session.http._local_control_stream_id


def encoder(session):
    return session.http._local_encoder_stream_id


def decoder(session):
    return session.http._local_decoder_stream_id


def request(session):
    return session.request


def datagram(data):
    def act(session):
        session._quic.send_datagram_frame(data)
        session.transmit()

    return act


FRAME = encode_frame
BROKEN = [
    ("a second control stream", on(new_uni, encode_uint_var(0)), ErrorCode.H3_STREAM_CREATION_ERROR),
    ("a push stream", on(new_uni, encode_uint_var(1)), ErrorCode.H3_STREAM_CREATION_ERROR),
    ("the end of the control stream", on(control, b"", True), ErrorCode.H3_CLOSED_CRITICAL_STREAM),
    ("settings twice", on(control, FRAME(4, b"")), ErrorCode.H3_FRAME_UNEXPECTED),
    ("fields on the control stream", on(control, FRAME(1, b"")), ErrorCode.H3_FRAME_UNEXPECTED),
    ("a request that begins with DATA", on(new, FRAME(0, b"x")), ErrorCode.H3_FRAME_UNEXPECTED),
    ("fields of a dynamic table", on(new, FRAME(1, b"\x02\x00\x80")), ErrorCode.QPACK_DECOMPRESSION_FAILED),
    ("fields that are cut off", on(new, FRAME(1, b"\x00\x00\x51\x7f")), ErrorCode.QPACK_DECOMPRESSION_FAILED),
    ("a session that is no request", on(new, b"\x40\x41\x03"), ErrorCode.H3_ID_ERROR),
    ("trailers of the session", on(request, FRAME(1, b"")), ErrorCode.H3_FRAME_UNEXPECTED),
    ("an end within a frame", on(request, b"\x00\x09x", True), ErrorCode.H3_FRAME_ERROR),
    ("a close of three bytes", on(request, FRAME(0, b"\x68\x43\x03abc")), ErrorCode.H3_MESSAGE_ERROR),
    ("a close that is cut off", on(request, FRAME(0, b"\x68\x43\x08ab"), True), ErrorCode.H3_MESSAGE_ERROR),
    ("room for entries", on(encoder, b"\x3f\xe1\x1f"), ErrorCode.QPACK_ENCODER_STREAM_ERROR),
    ("word of an entry", on(decoder, b"\x01"), ErrorCode.QPACK_DECODER_STREAM_ERROR),
    ("an empty datagram", datagram(b""), ErrorCode.H3_DATAGRAM_ERROR),
    ("a datagram of half a number", datagram(b"\x40"), ErrorCode.H3_DATAGRAM_ERROR),
    ("a close of 64 KiB", on(request, FRAME(0, b"\x68\x43\x80\x01\x00\x00")), ErrorCode.H3_MESSAGE_ERROR),
]


@case("HTTP/3: whoever breaks its rules is told by which code", over="webtransport")
async def _():
    for what, act, code in BROKEN:
        async with open_session() as session:
            act(session)
            try:
                await session.ends_with(code)
            except (Failure, asyncio.TimeoutError) as failure:
                raise Failure(f"{what}: {failure or 'nothing happened'}")


@case("HTTP/3: settings that are none end the connection", over="webtransport")
async def _():
    for settings, code in [
        (FRAME(4, b"\x00\x00"), ErrorCode.H3_SETTINGS_ERROR),
        (FRAME(4, b"\x02\x00"), ErrorCode.H3_SETTINGS_ERROR),
        (FRAME(4, b"\x33\x05"), ErrorCode.H3_SETTINGS_ERROR),
        (FRAME(4, b"\x06\x00\x06\x00"), ErrorCode.H3_SETTINGS_ERROR),
        (FRAME(0x21, b""), ErrorCode.H3_MISSING_SETTINGS),
        (FRAME(4, bytes(5000)), ErrorCode.H3_EXCESSIVE_LOAD),
    ]:
        # The library's own settings stay unsent.
        async with connect(
            HOST, int(PORT), configuration=configuration(), create_protocol=SilentSession, local_port=0
        ) as session:
            session.send_on(session.next_stream(True), encode_uint_var(0) + settings)
            await session.ends_with(code)


class SilentSession(WebSession):
    """Opens none of HTTP/3's streams by itself, and keeps what comes on others."""

    def __init__(self, *more, **named):
        begin, H3Connection._init_connection = H3Connection._init_connection, lambda _: None
        try:
            super().__init__(*more, **named)
        finally:
            H3Connection._init_connection = begin
        self.came = {}
        self.http.handle_event = self.keep

    def keep(self, event):
        if isinstance(event, StreamDataReceived):
            self.came[event.stream_id] = self.came.get(event.stream_id, b"") + event.data
        return []


@case("HTTP/3: a client that says no settings opens no session", over="webtransport")
async def _():
    async with connect(
        HOST, int(PORT), configuration=configuration(), create_protocol=SilentSession, local_port=0
    ) as session:
        fields = b"\0\0\xcf\xd7\x50\x01a\x51\x0b" + PATH.encode() + b"\x27\x02:protocol\x0cwebtransport"
        session.send_on(0, FRAME(1, fields) + FRAME(0, b"more"))
        # It is told nothing, and has as long for its hello as anybody.
        session.send_on(4, b"\x40\x41\x00" + encode(1, hello=hello(options.token)))
        await session.ends_with(ErrorCode.H3_REQUEST_REJECTED)
        # The settings of the node.
        equal(list(session.came), [3], "streams that something came on")


@case("HTTP/3: a flood of requests, of strange streams and of resets ends the connection", over="webtransport")
async def _():
    def requests(session):
        session.send_on(session.next_stream(), FRAME(1, b"\0\0\xd1\xd7\x50\x01a\xc1"), True)

    def resets(session):
        stream = session.next_stream()
        # The library resets what it may not open yet, which is another offence.
        if stream // 4 >= session._quic._remote_max_streams_bidi:
            return
        session.send_on(stream, b"\x01\x20")
        session._quic.reset_stream(stream, 1)

    def strange(session):
        session.send_on(session.next_stream(True), encode_uint_var(0x21) + b"x", True)

    for act in [requests, strange, resets]:
        async with open_session() as session:
            for _ in range(100):
                act(session)
                session.transmit()
                try:
                    # Answered once it has come, so that no limit of QUIC's is in the way.
                    await session.ping()
                except ConnectionError:
                    break
            await session.ends_with(ErrorCode.H3_EXCESSIVE_LOAD)
