"""Judges a Millrace data node over QUIC with a QUIC library and a Cap'n Proto that nobody here wrote.

python3 quic.py --address 127.0.0.1:PORT --ca ca.pem --token T [--channel general] [--over webtransport]

Over WebTransport the same cases run within HTTP/3, and some of its own. The channel is durable, the token's user may read and publish there. Others may use it meanwhile.
"""

import asyncio

from aioquic.asyncio import connect

from quic_session import (
    HOST,
    OVER_HTTP3,
    PORT,
    TIMEOUT_SECONDS,
    Session,
    case,
    configuration,
    marked,
    open_session,
    options,
    suite,
)
from session import SUBPROTOCOL, encode, hello
from suite import Failure, equal, require


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


# Adds its cases behind those of both.
import http3

suite.run(options.only)
