"""Judges a Millrace data node over QUIC with a QUIC library and a Cap'n Proto that nobody here wrote.

python3 quic.py --address 127.0.0.1:PORT --ca ca.pem --token T [--channel general]

The channel is durable, the token's user may read and publish there. Others may use it meanwhile.
"""

import argparse
import asyncio
import itertools
import os
import random

from aioquic.asyncio import QuicConnectionProtocol, connect
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import ConnectionTerminated, HandshakeCompleted, StreamDataReceived, StreamReset

from session import SUBPROTOCOL, decode, encode, hello
from suite import Failure, Suite, equal, require

arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
arguments.add_argument("--address", required=True)
arguments.add_argument("--ca", required=True)
arguments.add_argument("--token", required=True)
arguments.add_argument("--channel", default="general")
arguments.add_argument("--only", help="run the cases that have this in their name")
options = arguments.parse_args()
suite = Suite()
HOST, PORT = options.address.rsplit(":", 1)
TIMEOUT_SECONDS = 10
CONTROL = 0


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

    def quic_event_received(self, event):
        if isinstance(event, HandshakeCompleted):
            self.handshake = event
        elif isinstance(event, StreamDataReceived):
            data = self.partial.pop(event.stream_id, b"") + event.data
            while len(data) >= 8:
                length = 8 + 8 * int.from_bytes(data[4:8], "little")
                if len(data) < length:
                    break
                self.frames.put_nowait((event.stream_id, *decode(data[:length])))
                data = data[length:]
            self.partial[event.stream_id] = data
            if event.end_stream:
                self.ended.add(event.stream_id)
                self.frames.put_nowait((event.stream_id, 0, "end", None))
        elif isinstance(event, StreamReset):
            self.frames.put_nowait((event.stream_id, 0, "reset", None))
        elif isinstance(event, ConnectionTerminated) and not self.closed.done():
            self.closed.set_result((event.error_code, event.frame_type, event.reason_phrase))

    def send_bytes(self, data, end=False):
        self._quic.send_stream_data(CONTROL, data, end)
        self.transmit()

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


def configuration(**more):
    made = QuicConfiguration(is_client=True, alpn_protocols=[SUBPROTOCOL], server_name="localhost", **more)
    made.load_verify_locations(options.ca)
    return made


def open_session(**more):
    """A session after its welcome."""

    class Opened:
        async def __aenter__(self):
            self.context = connect(
                HOST, int(PORT), configuration=configuration(**more), create_protocol=Session, local_port=0
            )
            session = await self.context.__aenter__()
            stream, session.welcome = await session.ask("welcome", hello=hello(options.token))
            equal(stream, CONTROL, "stream of the welcome")
            return session

        async def __aexit__(self, *error):
            await self.context.__aexit__(*error)

    return Opened()


def marked(text):
    return f"{text} {os.urandom(6).hex()} ✓".encode()


def case(name):
    """Adds a coroutine as a case that ends in time."""

    def add(function):
        suite.case(name)(lambda: asyncio.run(asyncio.wait_for(function(), 6 * TIMEOUT_SECONDS)))
        return function

    return add


@case("handshake: version 1, TLS 1.3, the protocol's name")
async def _():
    async with open_session() as session:
        equal(session.handshake.alpn_protocol, SUBPROTOCOL, "application protocol")
        equal(session._quic._version, 1, "version of QUIC")
        equal(session.welcome["version"], 1, "version of the protocol")


@case("handshake: another protocol is refused")
async def _():
    made = configuration()
    made.alpn_protocols = ["h2"]
    try:
        async with connect(HOST, int(PORT), configuration=made, create_protocol=Session):
            raise Failure("it was accepted")
    except ConnectionError:
        pass


@case("handshake: another version is negotiated")
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
        equal(stream, CONTROL, "stream of an attached channel")
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
            session._quic.send_datagram_frame(data)
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


@case("end: a client is let open one stream")
async def _():
    async with open_session() as session:
        equal(session._quic._remote_max_streams_bidi, 1, "streams in both directions")
        equal(session._quic._remote_max_streams_uni, 0, "streams in one direction")


suite.run(options.only)
