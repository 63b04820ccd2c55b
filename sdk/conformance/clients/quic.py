"""Judges a Millrace data node over QUIC with a QUIC library and a Cap'n Proto that nobody here wrote.

python3 quic.py --address 127.0.0.1:PORT --ca ca.pem --token T [--channel general] [--over webtransport]

Over WebTransport the same cases run within HTTP/3, and some of its own. The channel is durable, the token's user may read and publish there. Others may use it meanwhile.
"""

import argparse
import asyncio
import itertools
import os
import random

from aioquic.asyncio import QuicConnectionProtocol, connect
from aioquic.buffer import Buffer, encode_uint_var
from aioquic.h3.connection import ErrorCode, FrameType, H3Connection, encode_frame
from aioquic.h3.events import DataReceived, HeadersReceived, WebTransportStreamDataReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import ConnectionTerminated, HandshakeCompleted, StreamDataReceived, StreamReset

from session import PATH, SUBPROTOCOL, decode, encode, hello
from suite import Failure, Suite, equal, require

arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
arguments.add_argument("--address", required=True)
arguments.add_argument("--ca", required=True)
arguments.add_argument("--token", required=True)
arguments.add_argument("--channel", default="general")
arguments.add_argument("--over", choices=["quic", "webtransport"], default="quic")
arguments.add_argument("--only", help="run the cases that have this in their name")
options = arguments.parse_args()
suite = Suite()
HOST, PORT = options.address.rsplit(":", 1)
TIMEOUT_SECONDS = 10
CLOSE_SESSION = 0x2843
OVER_HTTP3 = options.over == "webtransport"


class Session(QuicConnectionProtocol):
    """A session's frames, by stream, in the order in which they came."""

    def __init__(self, *more, **named):
        super().__init__(*more, **named)
        self.partial = {}
        self.frames = asyncio.Queue()
        self.passed = []
        self.requests = itertools.count(1)
        self.producer, self.sequence = random.randrange(1, 1 << 64), 0
        self.handshake = None
        self.ended = set()
        self.closed = asyncio.get_running_loop().create_future()
        self.control = 0

    async def begin(self):
        """Opens what a session needs before its first frame: nothing."""

    def quic_event_received(self, event):
        if isinstance(event, HandshakeCompleted):
            self.handshake = event
        elif isinstance(event, StreamDataReceived):
            self.take(event.stream_id, event.data, event.end_stream)
        elif isinstance(event, StreamReset):
            self.frames.put_nowait((event.stream_id, 0, "reset", None))
        elif isinstance(event, ConnectionTerminated) and not self.closed.done():
            self.closed.set_result((event.error_code, event.frame_type, event.reason_phrase))

    def take(self, stream, data, end):
        """Takes frames out of what came on a stream."""
        data = self.partial.pop(stream, b"") + data
        while len(data) >= 8:
            length = 8 + 8 * int.from_bytes(data[4:8], "little")
            if len(data) < length:
                break
            self.frames.put_nowait((stream, *decode(data[:length])))
            data = data[length:]
        self.partial[stream] = data
        if end:
            self.ended.add(stream)
            self.frames.put_nowait((stream, 0, "end", None))

    def send_bytes(self, data, end=False):
        self._quic.send_stream_data(self.control, data, end)
        self.transmit()

    def send_datagram(self, data):
        self._quic.send_datagram_frame(data)

    def send(self, request=0, **body):
        self.send_bytes(encode(request, **body))

    async def read(self):
        """The next frame of any stream: stream, request, member, content."""
        while True:
            if self.passed:
                return self.passed.pop(0)
            try:
                frame = await asyncio.wait_for(self.frames.get(), TIMEOUT_SECONDS)
            except asyncio.TimeoutError:
                raise Failure(f"no frame within {TIMEOUT_SECONDS} s")
            if frame[2] != "ping":
                return frame
            self.send(pong=None)

    async def until(self, fits):
        """The next frame that fits; those before it wait."""
        passed = []
        while True:
            frame = await self.read()
            if fits(*frame):
                self.passed = passed + self.passed
                return frame
            passed.append(frame)

    async def ask(self, expect, **body):
        request = next(self.requests)
        self.send(request, **body)
        stream, _, member, content = await self.until(lambda _, found, *rest: found == request)
        equal(member, expect, f"answer {content}")
        return stream, content

    async def subscribe(self, **start):
        return await self.ask("subscribed", subscribe={"channel": options.channel, **(start or {"live": None})})

    async def publish(self, channel, body):
        self.sequence += 1
        publish = {"channel": channel, "producer": self.producer, "sequence": self.sequence, "body": body}
        return (await self.ask("published", publish=publish))[1]

    async def message(self, body):
        """The message with this body; others' are passed over. Gives the stream that it came on."""
        return (await self.until(lambda _, __, member, content: member == "message" and content["body"] == body))[0]

    async def move(self):
        """Goes on from another port, as behind a NAT that has forgotten."""
        before = self._transport
        loop = asyncio.get_running_loop()
        # As aioquic opens its own: for both kinds of addresses.
        await loop.create_datagram_endpoint(lambda: self, local_addr=("::", 0))
        before.close()


class WebSession(Session):
    """The same within HTTP/3: a request opens it, and its streams begin with a few bytes more."""

    def __init__(self, *more, **named):
        super().__init__(*more, **named)
        self.http = H3Connection(self._quic, enable_webtransport=True)
        self.answers, self.capsules = {}, b""
        self.control = self.request = None
        self.terminated = asyncio.get_running_loop().create_future()

    async def begin(self):
        self.request, status = await self.fetch(CONNECT)
        equal(status, 200, "status")
        self.control = self.http.create_webtransport_stream(self.request)

    async def fetch(self, fields, end=False):
        """Sends a request: its stream and the status that answers it."""
        stream = self._quic.get_next_available_stream_id()
        self.http.send_headers(stream, encoded(fields), end)
        self.transmit()
        return stream, (await self.answer(stream))["status"]

    async def answer(self, stream):
        """The answer on a stream, once its fields have come."""
        answer = self.answers.setdefault(stream, {"came": asyncio.Event(), "body": b"", "ended": asyncio.Event()})
        await asyncio.wait_for(answer["came"].wait(), TIMEOUT_SECONDS)
        return answer

    def quic_event_received(self, event):
        if isinstance(event, HandshakeCompleted):
            self.handshake = event
        elif isinstance(event, ConnectionTerminated):
            if not self.terminated.done():
                self.terminated.set_result((event.error_code, event.reason_phrase))
            if not self.closed.done():
                self.closed.set_result((event.error_code, event.frame_type, event.reason_phrase))
        elif isinstance(event, StreamDataReceived) and event.stream_id == self.control:
            # The library takes what comes back on a stream that it opened itself for frames of HTTP/3.
            self.take(event.stream_id, event.data, event.end_stream)
            return
        for happened in self.http.handle_event(event):
            self.http_event_received(happened)

    def http_event_received(self, event):
        if isinstance(event, WebTransportStreamDataReceived):
            equal(event.session_id, self.request, "session of a stream")
            self.take(event.stream_id, event.data, event.stream_ended)
        elif isinstance(event, HeadersReceived):
            fields = {name.decode(): value.decode() for name, value in event.headers}
            new = {"came": asyncio.Event(), "body": b"", "ended": asyncio.Event()}
            answer = self.answers.setdefault(event.stream_id, new)
            answer.update(fields=fields, status=int(fields[":status"]))
            answer["came"].set()
        elif isinstance(event, DataReceived) and event.stream_id == self.request:
            self.capsules += event.data
            self.read_capsules()
        elif isinstance(event, DataReceived):
            answer = self.answers[event.stream_id]
            answer["body"] += event.data
            if event.stream_ended:
                answer["ended"].set()

    def read_capsules(self):
        buffer = Buffer(data=self.capsules)
        kind, length = buffer.pull_uint_var(), buffer.pull_uint_var()
        equal(kind, CLOSE_SESSION, "kind of a capsule of the node's")
        value = buffer.pull_bytes(length)
        require(buffer.eof(), "nothing follows the close")
        if not self.closed.done():
            self.closed.set_result((int.from_bytes(value[:4]), None, value[4:].decode()))

    def send_datagram(self, data):
        self.http.send_datagram(self.request, data)

    def send_capsule(self, kind, value, end=False):
        self.http.send_data(self.request, encode_uint_var(kind) + encode_uint_var(len(value)) + value, end)
        self.transmit()

    def send_on(self, stream, data, end=False):
        """Sends bytes past the library, which would not."""
        self._quic.send_stream_data(stream, data, end)
        self.transmit()

    def next_stream(self, is_unidirectional=False):
        return self._quic.get_next_available_stream_id(is_unidirectional)

    async def ends_with(self, code):
        found, reason = await asyncio.wait_for(self.terminated, TIMEOUT_SECONDS)
        equal(found, code, f"the connection's error code ({reason})")


CONNECT = {
    ":method": "CONNECT",
    ":scheme": "https",
    ":authority": options.address,
    ":path": PATH,
    ":protocol": "webtransport",
    "origin": "https://elsewhere.example",
}


def encoded(fields):
    return [(name.encode(), value.encode()) for name, value in fields.items() if value is not None]


def configuration(**more):
    protocol = "h3" if OVER_HTTP3 else SUBPROTOCOL
    if OVER_HTTP3:
        more.setdefault("max_datagram_frame_size", 65536)
    made = QuicConfiguration(is_client=True, alpn_protocols=[protocol], server_name="localhost", **more)
    made.load_verify_locations(options.ca)
    return made


def open_connection(**more):
    kind = WebSession if OVER_HTTP3 else Session
    return connect(HOST, int(PORT), configuration=configuration(**more), create_protocol=kind, local_port=0)


def open_session(**more):
    """A session after its welcome."""

    class Opened:
        async def __aenter__(self):
            self.context = open_connection(**more)
            session = await self.context.__aenter__()
            await session.begin()
            stream, session.welcome = await session.ask("welcome", hello=hello(options.token))
            equal(stream, session.control, "stream of the welcome")
            return session

        async def __aexit__(self, *error):
            await self.context.__aexit__(*error)

    return Opened()


def marked(text):
    return f"{text} {os.urandom(6).hex()} ✓".encode()


def case(name, over=None):
    """Adds a coroutine as a case that ends in time; with `over`, one of this transport's own."""

    def add(function):
        if over not in (None, options.over):
            return function
        suite.case(name)(lambda: asyncio.run(asyncio.wait_for(function(), 6 * TIMEOUT_SECONDS)))
        return function

    return add


@case("handshake: version 1, TLS 1.3, the protocol's name")
async def _():
    async with open_session() as session:
        equal(session.handshake.alpn_protocol, "h3" if OVER_HTTP3 else SUBPROTOCOL, "application protocol")
        equal(session._quic._version, 1, "version of QUIC")
        equal(session.welcome["version"], 1, "version of the protocol")


@case("handshake: another protocol is refused", over="quic")
async def _():
    made = configuration()
    made.alpn_protocols = ["h2"]
    try:
        async with connect(HOST, int(PORT), configuration=made, create_protocol=Session):
            raise Failure("it was accepted")
    except ConnectionError:
        pass


@case("handshake: another version is negotiated", over="quic")
async def _():
    made = configuration()
    made.supported_versions = [0x1A2A3A4A, 1]
    made.original_version = 0x1A2A3A4A
    async with connect(HOST, int(PORT), configuration=made, create_protocol=Session) as session:
        equal(session._quic._version, 1, "version of QUIC")
        await session.ask("welcome", hello=hello(options.token))


@case("streams: a subscription has its own, an attached one none")
async def _():
    async with open_session() as session:
        stream, attached = await session.subscribe(attach=None)
        equal(stream, session.control, "stream of an attached channel")
        stream, subscribed = await session.subscribe()
        equal(stream % 4, 3, "a unidirectional stream of the node")
        equal(subscribed["channel"], attached["channel"], "channel")
        for n in range(20):
            body = marked(f"message {n}")
            await session.publish(subscribed["channel"], body)
            equal(await session.message(body), stream, "stream of a message")
        ended, content = await session.ask("unsubscribed", unsubscribe={"channel": subscribed["channel"]})
        equal((ended, content["code"]), (stream, 0), "the last frame of the stream")
        await session.until(lambda found, _, member, __: (found, member) == (stream, "end"))


@case("streams: a frame may come in pieces, and many at once")
async def _():
    async with open_session() as session:
        _, subscribed = await session.subscribe()
        pong = encode(0, pong=None)
        for byte in pong:
            session.send_bytes(bytes([byte]))
        session.send_bytes(pong * 50)
        body = marked("behind them")
        await session.publish(subscribed["channel"], body)
        await session.message(body)


@case("streams: messages of 16 KiB, more of them than a window holds")
async def _():
    async with open_session() as session:
        _, subscribed = await session.subscribe()
        bodies = [marked(f"{n}").ljust(16_000, b".") for n in range(20)]
        for body in bodies:
            await session.publish(subscribed["channel"], body)
        for body in bodies:
            await session.message(body)


@case("resume: after a position, on a stream of its own")
async def _():
    async with open_session() as session:
        _, subscribed = await session.subscribe()
        bodies = [marked(f"missed {n}") for n in range(5)]
        for body in bodies:
            await session.publish(subscribed["channel"], body)
        async with open_session() as later:
            stream, resumed = await later.subscribe(after=subscribed["position"])
            equal(resumed["recovery"], {"whole": None}, "recovery")
            for body in bodies:
                equal(await later.message(body), stream, "stream of a message")


@case("datagrams: a pong may come in one, anything else is ignored")
async def _():
    async with open_session(max_datagram_frame_size=65536) as session:
        for data in [encode(0, pong=None), b"", b"nothing", encode(7, pong=None)]:
            session.send_datagram(data)
        session.transmit()
        await session.subscribe()


@case("keys: the client's update is followed, again and again")
async def _():
    async with open_session() as session:
        _, subscribed = await session.subscribe()
        for n in range(5):
            session.request_key_update()
            body = marked(f"key {n}")
            await session.publish(subscribed["channel"], body)
            await session.message(body)


@case("migration: twenty other ports, and other connection ids, in the middle of messages")
async def _():
    async with open_session() as session:
        stream, subscribed = await session.subscribe()
        for n in range(20):
            await session.move()
            if n % 2:
                session.change_connection_id()
            body = marked(f"from port {n}")
            await session.publish(subscribed["channel"], body)
            equal(await session.message(body), stream, "stream of a message")
        require(not session.closed.done(), "the connection goes on")


@case("end: a goodbye is answered with code 0")
async def _():
    async with open_session() as session:
        session.send_bytes(b"", end=True)
        code, frame_type, _ = await asyncio.wait_for(session.closed, TIMEOUT_SECONDS)
        # Of the application: no frame is to blame.
        equal((code, frame_type), (0, None), "close")


@case("end: bytes that are no frame end it with 4000, after an error")
async def _():
    async with open_session() as session:
        session.send_bytes(bytes([0, 0, 0, 0, 1, 0, 0, 0, *[255] * 8]))
        *_, member, error = await session.until(lambda _, __, member, ___: member == "error")
        equal(error["code"], 4000, "code of the error")
        equal((await asyncio.wait_for(session.closed, TIMEOUT_SECONDS))[0], 4000, "code of the close")


@case("end: a client is let open one stream", over="quic")
async def _():
    async with open_session() as session:
        equal(session._quic._remote_max_streams_bidi, 1, "streams in both directions")
        session._quic.send_stream_data(session._quic.get_next_available_stream_id(True), b"x")
        session.transmit()
        equal((await asyncio.wait_for(session.closed, TIMEOUT_SECONDS))[0], 4000, "code of the close")


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


suite.run(options.only)
