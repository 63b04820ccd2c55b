"""Sessions of `aioquic` with a data node, over QUIC or within HTTP/3 for WebTransport, and cases that end in time."""

import argparse
import asyncio
import itertools
import os
import random

from aioquic.asyncio import QuicConnectionProtocol, connect
from aioquic.buffer import Buffer, encode_uint_var
from aioquic.h3.connection import H3Connection
from aioquic.h3.events import DataReceived, HeadersReceived, WebTransportStreamDataReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import ConnectionTerminated, HandshakeCompleted, StreamDataReceived, StreamReset

from session import PATH, SUBPROTOCOL, decode, encode, hello
from suite import Failure, Suite, equal, require

arguments = argparse.ArgumentParser(description="Judges a Millrace data node over QUIC or WebTransport.")
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
