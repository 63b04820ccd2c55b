"""Judges a Millrace data node with a WebSocket library and a Cap'n Proto that nobody here wrote.

python3 node.py --url ws://127.0.0.1:PORT --token T [--expired-token T] [--channel general] [--handshake-seconds 10]

The channel is durable, the token's user may read and publish there. Others may use it meanwhile, but not publish.
"""

import argparse
import base64
import contextlib
import json
import os
import pathlib
import time

from deflate import deflate
from raw import BINARY, CLOSE, PING, PONG, TEXT, Raw, Socket, close_payload, frame
from session import SUBPROTOCOL, Session, encode, endpoint, hello
from suite import Skipped, Suite, equal, require

arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
arguments.add_argument("--url", required=True, type=endpoint)
arguments.add_argument("--token", required=True)
arguments.add_argument("--expired-token")
arguments.add_argument("--channel", default="general")
arguments.add_argument("--handshake-seconds", type=float, default=10)
arguments.add_argument("--only", help="run the cases that have this in their name")
options = arguments.parse_args()
suite = Suite()
VECTORS = json.loads((pathlib.Path(__file__).resolve().parents[1] / "vectors" / "client.json").read_text())


def open_session(**more):
    return Session.open(options.url, options.token, **more)


def marked(text):
    return f"{text} {os.urandom(6).hex()} ✓".encode()


# The opening handshake.


@suite.each(
    "handshake: {0} is answered {1}",
    [
        ("another path", 404, {"line": "GET /v2/connect HTTP/1.1"}),
        ("POST", 405, {"line": "POST /v1/connect HTTP/1.1"}),
        ("plain HTTP", 426, {"Upgrade": None, "Connection": None}),
        ("no sub-protocol", 400, {}),
        ("another sub-protocol", 400, {"Sec_WebSocket_Protocol": "chat, millrace.v0"}),
        ("a head of 9 KiB", 431, {"X_Long": "x" * 9000}),
    ],
)
def _(_, expect, change):
    with Socket(options.url) as client:
        client.send(client.request(**change))
        status, fields = client.response()
        equal(status, expect, "status")
        require(len(client.take(int(fields["content-length"]))) > 10, "a text that helps")
        client.expect_end()


@suite.case("handshake: hello in the same segment as the request")
def _():
    with Socket(options.url) as client:
        request = client.request(Sec_WebSocket_Protocol=SUBPROTOCOL)
        client.send(request + frame(BINARY, encode(1, hello=hello(options.token))))
        equal(client.response()[0], 101, "status")
        equal(client.take(1), b"\x82", "first byte of a binary frame")


# Compression.


@suite.case("compression: the library's, for messages and pages both ways, beside a session without it")
def _():
    with open_session(compression="deflate") as packed, open_session() as plain:
        agreed = packed.client.response.headers.get("Sec-WebSocket-Extensions")
        require(agreed and agreed.startswith("permessage-deflate; server_no_context_takeover"), f"agreed: {agreed}")
        sessions = [packed, plain]
        channels = [session.subscribe(options.channel)["channel"] for session in sessions]
        bodies = [marked("as before, and again ") * 200, marked("short"), os.urandom(5_000)]
        for sender in sessions:
            for body in bodies:
                sender.publish(channels[0], body)
                for session in sessions:
                    equal(session.message()["body"], body)
        page = packed.ask("page", history={"channel": channels[0], "messagesMax": 6, "newest": None})
        equal([message["body"] for message in page["messages"]], bodies * 2)


@suite.case("compression: a bomb ends with 1009, and nobody else notices")
def _():
    with open_session() as other, Raw(options.url, SUBPROTOCOL, "permessage-deflate") as client:
        client.send(frame(BINARY, deflate(bytes(64 << 20)), rsv=4))
        client.expect_close(1009)
        other.subscribe(options.channel)


# The framing. It does not matter whether hello has come, so each runs before and after it.

FRAMING = [
    ("a text frame", 1003, frame(TEXT, b"hello")),
    ("an empty text frame", 1003, frame(TEXT, b"")),
    ("an unmasked frame", 1002, frame(BINARY, b"hello", masked=False)),
    ("a frame with reserved bits", 1002, frame(BINARY, b"hello", rsv=4)),
    ("a reserved opcode", 1002, frame(3, b"hello")),
    ("a frame that claims 1 GiB", 1009, frame(BINARY, b"", length=1 << 30, form=64)),
    ("a frame that claims 2^63 - 1 bytes", 1009, frame(BINARY, b"", length=(1 << 63) - 1, form=64)),
    ("an endless fragmented message", 1009, frame(BINARY, b"", fin=False) + frame(0, b"x" * 60_000, fin=False) * 20),
    ("a ping of 126 bytes", 1002, frame(PING, b"x" * 126)),
    ("close code 1005", 1002, frame(CLOSE, close_payload(1005))),
]


def send_all(client, wire):
    """The node may hang up before it has read everything."""
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        client.send(wire)


@suite.each("framing: {0} instead of hello is told {1}", FRAMING)
def _(_, code, wire):
    with Raw(options.url, SUBPROTOCOL) as client:
        send_all(client, wire)
        client.expect_close(code)


@suite.each("framing: {0} after hello is told {1}", FRAMING)
def _(_, code, wire):
    with Raw(options.url, SUBPROTOCOL) as client:
        client.frame(BINARY, encode(1, hello=hello(options.token)))
        equal(client.read()[0], BINARY, "opcode of the welcome")
        send_all(client, wire)
        client.expect_close(code)


@suite.case("framing: pings are answered before and after hello, also between fragments")
def _():
    wire = encode(1, hello=hello(options.token))
    with Raw(options.url, SUBPROTOCOL) as client:
        client.frame(PING, b"before")
        client.expect(PONG, b"before")
        client.frame(BINARY, wire[:11], fin=False)
        client.frame(PING, b"between", chop=1)
        client.expect(PONG, b"between")
        client.frame(0, wire[11:], chop=5)
        equal(client.read()[0], BINARY, "opcode of the welcome")
        client.frame(PING, b"")
        client.expect(PONG, b"")


@suite.each("framing: close {0} is answered with the same", [(1000,), (1001,), (4999,), (None,)])
def _(code):
    with Raw(options.url, SUBPROTOCOL) as client:
        client.frame(BINARY, encode(1, hello=hello(options.token)))
        equal(client.read()[0], BINARY, "opcode of the welcome")
        client.frame(CLOSE, b"" if code is None else close_payload(code, b"bye"))
        client.expect(CLOSE, b"" if code is None else close_payload(code))
        client.expect_end()


# The beginning of a session.

BAD_FRAMES = [
    ("200 bytes that are no frame", bytes(range(7, 207))),
    ("a segment of 512 KiB announced", b"\0\0\0\0\xff\xff\0\0" + b"\0" * 8),
    ("the first half of a hello", encode(1, hello=hello(options.token))[:40]),
] + [(vector["name"], bytes.fromhex(vector["hex"])) for vector in VECTORS["refused"] if vector["code"] == 4000]


@suite.each("session: bad Cap'n Proto ({0}) ends it with 4000", BAD_FRAMES)
def _(_, data):
    with Session(options.url) as session:
        session.client.send(data)
        session.expect_end(4000)


@suite.case("session: bad Cap'n Proto after hello ends it with 4000")
def _():
    with open_session() as session:
        session.client.send(b"\0" * 7)
        session.expect_end(4000)


@suite.each("session: versions {0} to {1} end it with 4001", [(2, 9), (0, 0), (65535, 65535)])
def _(low, high):
    with Session(options.url) as session:
        session.send(1, hello=hello(options.token, versions=(low, high)))
        session.expect_end(4001, request=1)


@suite.case("session: of versions 1 to 9 the node takes 1")
def _():
    with open_session(versions=(1, 9)) as session:
        equal(session.welcome["version"], 1)


@suite.each(
    "session: {0} instead of hello ends it with 4002",
    [
        ("subscribe", {"subscribe": {"channel": options.channel, "live": None}}),
        ("publish", {"publish": {"channel": 1, "producer": 1, "sequence": 1, "body": b"x"}}),
        ("history", {"history": {"channel": 1, "messagesMax": 1, "newest": None}}),
        ("pong", {"pong": None}),
    ],
)
def _(_, body):
    with Session(options.url) as session:
        session.send(5, **body)
        session.expect_end(4002, request=5)


@suite.case("session: a second hello ends it with 4002")
def _():
    with open_session() as session:
        session.send(2, hello=hello(options.token))
        session.expect_end(4002, request=2)


def unsigned_token():
    part = lambda value: base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()
    claims = json.loads(base64.urlsafe_b64decode(options.token.split(".")[1] + "=="))
    return f"{part({'alg': 'none', 'typ': 'JWT'})}.{part(claims)}."


def altered_token():
    head, claims, signature = options.token.split(".")
    middle = len(signature) // 2
    other = "A" if signature[middle] != "A" else "B"
    return f"{head}.{claims}.{signature[:middle]}{other}{signature[middle + 1:]}"


@suite.each(
    "session: {0} ends it with 4400",
    [
        ("an empty token", lambda: ""),
        ("a token that is none", lambda: "let me in"),
        ("a token without its signature", lambda: options.token.rsplit(".", 1)[0] + "."),
        ("a token with another signature", altered_token),
        ("a token that says it needs no signature", unsigned_token),
        ("a token of 4,096 bytes", lambda: "x" * 4096),
    ],
)
def _(_, token):
    with Session(options.url) as session:
        session.send(1, hello=hello(token()))
        session.expect_end(4400, request=1)


@suite.each("session: a token of {0} bytes ends it with 4003, like any frame over a limit", [(4097,), (200_000,)])
def _(length):
    with Session(options.url) as session:
        session.send(1, hello=hello("x" * length))
        session.expect_end(4003)


@suite.case("session: a hello with 1,001 subscriptions ends it with 4003")
def _():
    with Session(options.url) as session:
        session.send(1, hello=hello(options.token, subscriptions=[{"channel": "x", "live": None}] * 1001))
        session.expect_end(4003)


@suite.case("session: an expired token ends it with 4401")
def _():
    if options.expired_token is None:
        raise Skipped("no --expired-token")
    with Session(options.url) as session:
        session.send(1, hello=hello(options.expired_token))
        session.expect_end(4401, request=1)


def in_time(start):
    seconds = time.monotonic() - start
    limit = options.handshake_seconds
    require(limit * 0.5 <= seconds <= limit + 5, f"it took {seconds:.1f} s, the limit is {limit} s")


@suite.case("session: silence after the handshake ends it with 4203 in time")
def _():
    start = time.monotonic()
    with Session(options.url) as session:
        session.expect_close(4203, options.handshake_seconds + 5)
    in_time(start)


@suite.case("session: pings and half a frame are no hello: 4203 in time")
def _():
    start = time.monotonic()
    with Raw(options.url, SUBPROTOCOL) as client:
        client.socket.settimeout(options.handshake_seconds + 5)
        client.frame(PING, b"here")
        client.expect(PONG, b"here")
        client.send(frame(BINARY, encode(1, hello=hello(options.token)))[:-1])
        client.expect_close(4203)
    in_time(start)


@suite.case("session: silence before the handshake ends the connection in time")
def _():
    start = time.monotonic()
    with Socket(options.url) as client:
        client.socket.settimeout(options.handshake_seconds + 5)
        client.send(client.request()[:20])
        try:
            while client.fill():
                pass
        except ConnectionResetError:
            pass
    in_time(start)


# Channels.


@suite.case("welcome: says what there is to know")
def _():
    with open_session() as session:
        welcome = session.welcome
        equal((welcome["version"], len(welcome["session"])), (1, 16), "version and length of the session's name")
        require(welcome["heartbeatMs"] > 0 and welcome["subscriptionsMax"] > 0, f"limits in {welcome}")
        require(1024 <= welcome["payloadBytesMax"] <= 65536, f"payload limit in {welcome}")
        require(welcome["tokenExpiresMs"] > time.time() * 1000, "a token that expires later than now")
        require(welcome["node"], "the name of the node")
        require(open_name() != welcome["session"], "another name for another session")


def open_name():
    with open_session() as session:
        return session.welcome["session"]


@suite.case("publish: acknowledged, delivered once, found in the history")
def _():
    with open_session() as session:
        subscribed = session.subscribe(options.channel)
        equal((subscribed["name"], subscribed["canPublish"]), (options.channel, True))
        equal((str(subscribed["history"]), list(subscribed["recovery"])), ("durable", ["none"]))
        channel, before = subscribed["channel"], subscribed["position"]
        body = marked("hello")
        published = session.publish(channel, body)
        expect = {"epoch": before["epoch"], "offset": before["offset"] + 1}
        equal((published["position"], published["duplicate"]), (expect, False))
        equal((published["channel"], published["producer"], published["sequence"]), (channel, session.producer, 1))
        message = session.message()
        equal((message["channel"], message["position"], message["body"]), (channel, expect, body))
        equal((message["producer"], message["sequence"]), (session.producer, 1))
        require(message["user"] and abs(message["timeMs"] / 1000 - time.time()) < 60, f"user and time in {message}")
        page = session.ask("page", history={"channel": channel, "messagesMax": 1, "newest": None})
        equal([page["channel"], page["messages"]], [channel, [message]], "the newest page")
        equal(page["more"], expect["offset"] > 1, "more")


@suite.case("publish: sent again, it is a duplicate at the same place, and nobody sees it twice")
def _():
    with open_session() as session:
        channel = session.subscribe(options.channel)["channel"]
        first, second = marked("first"), marked("second")
        place = session.publish(channel, first)["position"]
        again = session.publish(channel, first, sequence=1)
        equal((again["position"], again["duplicate"]), (place, True))
        session.publish(channel, second)
        equal([session.message()["body"], session.message()["body"]], [first, second])


@suite.case("publish: a gap in the sequence is refused with 4009, the session goes on")
def _():
    with open_session() as session:
        channel = session.subscribe(options.channel, attach=None)["channel"]
        session.publish(channel, marked("one"))
        session.refused(4009, publish=session.publication(channel, b"three", 3))
        session.publish(channel, marked("two"))


@suite.case("publish: 200 at once are acknowledged and delivered in order")
def _():
    bodies = [marked(f"number {number}") for number in range(200)]
    with open_session() as session:
        channel = session.subscribe(options.channel)["channel"]
        for number, body in enumerate(bodies, 1):
            session.send(1000 + number, publish=session.publication(channel, body, number))
        offsets = []
        for number in range(1, 201):
            member, content = session.answer(1000 + number)
            equal((member, content.get("duplicate")), ("published", False), f"answer {content}")
            offsets.append(content["position"]["offset"])
        equal(offsets, list(range(offsets[0], offsets[0] + 200)), "offsets")
        equal([session.message()["body"] for _ in bodies], bodies, "bodies")


@suite.case("publish: empty and of the largest size go through, one byte more is refused with 4003")
def _():
    with open_session() as session:
        channel = session.subscribe(options.channel)["channel"]
        largest = os.urandom(session.welcome["payloadBytesMax"])
        for body in [b"", largest]:
            session.publish(channel, body)
            equal(session.message()["body"], body)
        session.refused(4003, publish=session.publication(channel, largest + b"x", 3))
        session.publish(channel, marked("after"))


@suite.case("publish: a body over what any node takes is refused with 4003, too, as long as the frame fits")
def _():
    with open_session() as session:
        channel = session.subscribe(options.channel, attach=None)["channel"]
        for length in [65_536 + 1, 262_000]:
            session.refused(4003, publish=session.publication(channel, b"x" * length, 1))
        session.publish(channel, marked("after"))


@suite.case("publish: to a channel that the session has not subscribed to is refused")
def _():
    with open_session() as session:
        error = session.ask("error", publish=session.publication(1 << 60, b"x", 1))
        require(error["code"] in (4005, 4012), f"code {error['code']}")


@suite.case("history: pages before and after an offset, each message once")
def _():
    with open_session() as session:
        channel = session.subscribe(options.channel, attach=None)["channel"]
        offsets = [session.publish(channel, marked(f"page {number}"))["position"]["offset"] for number in range(5)]

        def page(**of):
            found = session.ask("page", history={"channel": channel, "messagesMax": 2, **of})
            return [message["position"]["offset"] for message in found["messages"]], found["more"]

        equal(page(after=offsets[0]), (offsets[1:3], True))
        equal(page(after=offsets[2]), (offsets[3:5], False))
        equal(page(after=offsets[4]), ([], False))
        equal(page(before=offsets[4]), (offsets[2:4], True))
        equal(page(newest=None), (offsets[3:5], True))
        equal(page(after=0)[0], [1, 2], "the very first")
        equal(page(before=1), ([], False))


@suite.case("resume: what was missed comes in order, then what is new")
def _():
    with open_session() as writer:
        channel = writer.subscribe(options.channel, attach=None)["channel"]
        place = writer.publish(channel, marked("seen"))["position"]
        missed = [marked(f"missed {number}") for number in range(30)]
        for body in missed:
            writer.publish(channel, body)
        with Session(options.url) as reader:
            start = {"channel": options.channel, "after": place}
            reader.send(9, hello=hello(options.token, subscriptions=[start]))
            equal(reader.answer(9)[0], "welcome")
            member, subscribed = reader.answer(9)
            equal((member, list(subscribed["recovery"])), ("subscribed", ["whole"]))
            live = marked("live")
            writer.publish(channel, live)
            equal([reader.message()["body"] for _ in range(31)], [*missed, live])


@suite.case("resume: a place that is ahead of the channel is refused with 4302, and the session is live")
def _():
    with open_session() as session:
        position = session.subscribe(options.channel, attach=None)["position"]
        ahead = {"epoch": position["epoch"], "offset": position["offset"] + 1_000_000}
        with open_session() as other:
            subscribed = other.subscribe(options.channel, after=ahead)
            equal(subscribed["recovery"], {"reload": 4302})
            body = marked("live")
            other.publish(subscribed["channel"], body)
            equal(other.message()["body"], body)


@suite.case("subscribe: a channel that there is none of is refused with 4005 and named, the session goes on")
def _():
    with open_session() as session:
        error = session.refused(4005, subscribe={"channel": "no-such-channel", "live": None})
        equal(error["channel"], "no-such-channel")
        session.subscribe(options.channel)


@suite.each(
    "subscribe: {0} is refused with {1}, the session goes on",
    [
        ("no name", 4004, ""),
        ("a name with a space", 4004, "no name"),
        ("a name of 129 bytes", 4003, "x" * 129),
        ("a name of 200,000 bytes", 4003, "ü" * 100_000),
    ],
)
def _(_, code, name):
    with open_session() as session:
        error = session.refused(code, subscribe={"channel": name, "live": None})
        equal(error["channel"], name.encode()[:128].decode(), "channel of the error")
        session.subscribe(options.channel)


@suite.case("unsubscribe: nothing comes after it")
def _():
    with open_session() as session, open_session() as writer:
        channel = session.subscribe(options.channel)["channel"]
        unsubscribed = session.ask("unsubscribed", unsubscribe={"channel": channel})
        equal((unsubscribed["channel"], unsubscribed["code"]), (channel, 0))
        writer.subscribe(options.channel, attach=None)
        writer.publish(channel, marked("unheard"))
        subscribed = session.subscribe(options.channel)
        heard = marked("heard")
        writer.publish(channel, heard)
        equal((session.message()["body"], session.inbox), (heard, []), "the first message after coming back")
        require(subscribed["channel"] == channel, "the same number")


@suite.case("refresh: the same token is taken, a bad one is refused")
def _():
    with open_session() as session:
        refreshed = session.ask("refreshed", refresh={"token": options.token})
        equal(refreshed["tokenExpiresMs"], session.welcome["tokenExpiresMs"])
        session.refused(4400, refresh={"token": altered_token()})
        session.refused(4400, refresh={"token": ""})
        session.subscribe(options.channel)


@suite.case("refresh: a token of 4,097 bytes ends the session with 4003, like any frame over a limit")
def _():
    with open_session() as session:
        session.send(2, refresh={"token": "x" * 4097})
        session.expect_end(4003)


@suite.case("later versions: what the node does not know is answered with an error, or ignored if it asks for nothing")
def _():
    with open_session() as session:
        unknown = [vector for vector in VECTORS["frames"] if "unknown" in vector["meaning"]]
        require(unknown, "vectors with something of a later version")
        for vector in unknown:
            session.client.send(bytes.fromhex(vector["hex"]))
            request = vector["meaning"]["request"]
            if request:
                equal(session.answer(request)[0], "error")
        session.subscribe(options.channel)


@suite.case("fan-out: 50 sessions each get every message once, in order")
def _():
    with contextlib.ExitStack() as stack:
        readers = [stack.enter_context(open_session()) for _ in range(50)]
        for reader in readers:
            reader.subscribe(options.channel)
        writer = stack.enter_context(open_session())
        channel = writer.subscribe(options.channel, attach=None)["channel"]
        bodies = [marked(f"to all {number}") for number in range(20)]
        for body in bodies:
            writer.publish(channel, body)
        for reader in readers:
            equal([reader.message()["body"] for _ in bodies], bodies)


suite.run(options.only)
