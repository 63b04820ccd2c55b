"""A hostile client: what strangers and members alike throw at a data node, while a witness who behaves well loses nothing.

python3 hostile.py --url ws://127.0.0.1:PORT --token T [--channel general] [--handshake-seconds 10]
                   [--admin http://HOST:PORT] [--api http://HOST:PORT --api-key KEY] [--pid N] [--seed N]

Without --admin, --api or --pid the cases that need it are skipped. The whole run takes less than half a minute.
"""

import argparse
import base64
import contextlib
import http.client
import json
import os
import random
import resource
import socket
import struct
import threading
import time
from urllib.parse import urlsplit

from raw import BINARY, CLOSE, PING, PONG, Socket, frame
from session import SUBPROTOCOL, Session, decode, encode, endpoint, hello
from stranger import LATE_SECONDS, Crowd, Slowloris, Stranger, all_at_once, stranger_hears, zero_masked
from suite import Failure, Skipped, Suite, equal, require
from witness import Process, Witness, get, metric

arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
arguments.add_argument("--url", required=True, type=endpoint)
arguments.add_argument("--token", required=True)
arguments.add_argument("--channel", default="general")
arguments.add_argument("--handshake-seconds", type=float, default=10)
arguments.add_argument("--admin", help="the node's admin port: its health is asked there")
arguments.add_argument("--api", help="the REST API: channels for 1,001 subscriptions are made there")
arguments.add_argument("--api-key", help="its key, as of an application server")
arguments.add_argument("--pid", type=int, help="the node's process: its memory is watched")
arguments.add_argument("--seed", type=int, default=None)
arguments.add_argument("--only", help="run the cases that have this in their name")
options = arguments.parse_args()
suite = Suite()

SECONDS_MAX = 30
HALF_OPEN = 1000
FLOOD_BYTES_MAX = 32 << 20
# What the node may hold for everybody here: a thousand beginnings, answers that nobody reads, last words, the store's memory for
# what the witness published, and what the allocator keeps. A node that sends long names back whole needs 200 MiB for one session.
PEAK_MIB_MAX = 48
# What may be left of it when all are gone.
LEFT_MIB_MAX = 32

seed = random.randrange(1 << 32) if options.seed is None else options.seed
rng = random.Random(seed)
HELLO = encode(1, hello=hello(options.token))
# Ends that the node may choose for bytes that mean nothing. The first is our own close, answered.
ENDS = {1000, 1002, 1003, 1007, 1009, 4000, 4001, 4002, 4003, 4004, 4203, 4400}


def noise(length):
    return rng.randbytes(length)


def before_hello():
    """A WebSocket before its hello."""
    return Stranger(options.url, options.handshake_seconds)


def in_session():
    """A session."""
    return Stranger(options.url, options.handshake_seconds, HELLO)


def answer_to(wire):
    return stranger_hears(options.url, options.handshake_seconds, wire)


# Bytes on the port that are no request.


def refused(data, statuses=range(400, 500)):
    head = data.split(b"\r\n", 1)[0].split(b" ")
    require(data[:9] == b"HTTP/1.1 " and int(head[1]) in statuses, f"the answer is {data[:200]!r}")
    require(data.count(b"HTTP/1.1 4") == 1, f"more than one answer: {data[:2000]!r}")


@suite.case("port: noise is refused or left alone, and ended")
def _():
    rows = [noise(rng.randrange(1, 4000)) for _ in range(60)]
    rows += [bytes([letter]) + noise(9000) for letter in b"GPz"] + [b"\0", b"\r\n\r\n", b"\xff" * 70_000]
    for answer in all_at_once(answer_to, rows):
        if answer:
            refused(answer)


def head(line="GET /v1/connect HTTP/1.1", *more, end="\r\n\r\n"):
    fields = ["Host: x", "Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13"]
    fields += ["Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", f"Sec-WebSocket-Protocol: {SUBPROTOCOL}"]
    return ("\r\n".join([line, *fields, *more]) + end).encode("latin-1")


@suite.each(
    "request: {0} is refused with {1}",
    [
        ("a TLS handshake", 400, bytes.fromhex("16030100c8010000c40303") + bytes(189)),
        ("HTTP/2", 400, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
        ("HTTP/1.0", 400, head("GET /v1/connect HTTP/1.0")),
        ("HTTP/9.9", 400, head("GET /v1/connect HTTP/9.9")),
        ("CONNECT", 405, head("CONNECT x:1 HTTP/1.1")),
        ("a target that is no path", 400, head("GET v1/connect HTTP/1.1")),
        ("another spelling of the path", 404, head("GET /v1/../v1/connect HTTP/1.1")),
        ("the path in per cent", 404, head("GET /%76%31/connect HTTP/1.1")),
        ("two hosts", 400, head("GET /v1/connect HTTP/1.1", "Host: y")),
        ("two keys", 400, head("GET /v1/connect HTTP/1.1", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==")),
        ("a field without a colon", 400, head("GET /v1/connect HTTP/1.1", "nonsense")),
        ("a folded field", 400, head("GET /v1/connect HTTP/1.1", "X-A: b", " folded")),
        ("a blank before the colon", 400, head("GET /v1/connect HTTP/1.1", "X-A : b")),
        ("a zero byte in a field", 400, head("GET /v1/connect HTTP/1.1", "X-A: b\0c")),
        ("a body by length", 400, head("GET /v1/connect HTTP/1.1", "Content-Length: 5") + b"hello"),
        ("a body in chunks", 400, head("GET /v1/connect HTTP/1.1", "Transfer-Encoding: chunked") + b"0\r\n\r\n"),
        ("a request behind a refused one", 404, head("GET /a HTTP/1.1") + head("GET /b HTTP/1.1")),
        ("65 more fields", 431, head("GET /v1/connect HTTP/1.1", *[f"X-{n}: y" for n in range(65)])),
        ("a field of 64 KiB", 431, head("GET /v1/connect HTTP/1.1", "X-A: " + "x" * 65_536)),
        ("a request line of 64 KiB", 431, head(f"GET /{'x' * 65_536} HTTP/1.1")),
        ("a field name of 64 KiB", 431, head("GET /v1/connect HTTP/1.1", "x" * 65_536 + ": y")),
        ("a head of 2 MiB without an end", 431, head("GET /v1/connect HTTP/1.1", end="\r\nX-A: " + "x" * (2 << 20))),
    ],
)
def _(_, status, wire):
    refused(answer_to(wire), [status])


@suite.case("request: one that is cut short anywhere is ended without a word")
def _():
    def cut(wire):
        with Socket(options.url) as client:
            client.send(wire)
            client.socket.shutdown(socket.SHUT_WR)
            client.expect_end()

    whole = head()
    all_at_once(cut, [whole[:at] for at in range(0, len(whole), 3)])


# Frames that are none.


@suite.each("frames: noise {0} has an end with a name", [("before hello", False), ("in a session", True)])
def _(_, session):
    def throw(wire):
        with (in_session if session else before_hello)() as client:
            client.pour(wire)
            # Whatever frame is still open is left so; a client that is gone is no reason to say more.
            client.socket.shutdown(socket.SHUT_WR)
            try:
                return client.end()[0]
            except Failure as unfinished:
                return str(unfinished)

    ends = all_at_once(throw, [noise(rng.randrange(2, 3000)) for _ in range(60)])
    named = [end for end in ends if end in ENDS or isinstance(end, int) and 3000 <= end < 5000 or end is None]
    unfinished = [end for end in ends if isinstance(end, str) and "0 bytes of 2" in end]
    equal(len(named) + len(unfinished), len(ends), f"ends among {ends}")
    require(len(named) > 30, f"hardly any end has a name: {ends}")


def mutated(wire):
    """The frame with some bytes changed, and sometimes a piece missing, doubled, or put elsewhere."""
    wire = bytearray(wire)
    for _ in range(rng.randrange(1, 4)):
        at = rng.randrange(len(wire))
        kind = rng.randrange(4)
        if kind == 0:
            wire[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            wire[at] = rng.choice([0, 1, 0x7F, 0x80, 0xFF])
        elif kind == 2:
            at -= at % 8
            wire[at : at + 8] = noise(8)
        else:
            at -= at % 8
            wire[at:at] = wire[: rng.randrange(0, len(wire), 8)]
            wire[4:8] = struct.pack("<I", len(wire) // 8 - 1)
    return bytes(wire)


@suite.case("frames: 120 hellos that went wrong are welcomed or have an end with a name")
def _():
    def throw(wire):
        with before_hello() as client:
            client.pour(zero_masked(BINARY, wire))
            opcode, payload = client.read()
            require(opcode == BINARY, f"{opcode} {payload!r} without an error before it")
            _, member, content = decode(payload)
            if member == "welcome":
                return None
            equal((member, client.end()[0]), ("error", content["code"]), "end")
            return content["code"]

    subscriptions = [{"channel": "no-such", "live": None}, {"channel": "none", "after": {"epoch": 1, "offset": 1}}]
    whole = encode(1, hello=hello(options.token, subscriptions=subscriptions))
    ends = set(all_at_once(throw, [mutated(whole) for _ in range(120)]))
    require(ends <= ENDS | {None}, f"ends {ends}")


@suite.case("frames: 600 requests that went wrong are answered, ignored, or have an end with a name")
def _():
    requests = [
        encode(7, publish={"channel": 1 << 60, "producer": 1, "sequence": 1, "body": b"body"}),
        encode(7, subscribe={"channel": "no-such", "after": {"epoch": 1, "offset": 1}}),
        encode(7, unsubscribe={"channel": 1 << 60}),
        encode(7, history={"channel": 1 << 60, "messagesMax": 1, "after": 1}),
        encode(7, refresh={"token": "x" * 40}),
    ]
    ends, sessions = set(), 0
    wires = [mutated(rng.choice(requests)) for _ in range(600)]
    while wires:
        sessions += 1
        with in_session() as client:
            while wires:
                client.pour(zero_masked(BINARY, wires.pop()) + zero_masked(PING, b"next"))
                opcode, payload = client.read()
                while opcode == BINARY:
                    _, member, content = decode(payload)
                    require(member == "error", f"{member} {content}")
                    opcode, payload = client.read()
                if opcode == CLOSE:
                    ends.add(struct.unpack(">H", payload[:2])[0])
                    break
                equal((opcode, payload), (PONG, b"next"))
    require(ends <= {4000, 4002, 4003, 4004}, f"ends {ends}")
    require(sessions > 20, f"only {sessions} sessions were needed")


@suite.each("frames: one that claims {0} bytes is told 1009 at once", [(2**18 + 1,), (2**32,), (2**63 - 1,)])
def _(length):
    for session in (False, True):
        with (in_session if session else before_hello)() as client:
            client.pour(frame(BINARY, noise(20), length=length, form=64))
            equal(client.end()[0], 1009, "close code")


# Floods.


@suite.case("flood: 100,000 pings whose answers nobody reads; the session goes on")
def _():
    with in_session() as client:
        blob = zero_masked(PING, b"p" * 125) * 1000
        for _ in range(100):
            client.send(blob)
        client.still_works()


@suite.case("flood: a message of 300,000 empty fragments is still one bad frame")
def _():
    with in_session() as client:
        client.pour(zero_masked(BINARY, b"", fin=False) + zero_masked(0, b"", fin=False) * 300_000)
        client.pour(zero_masked(0, b""))
        equal(client.end()[0], 4000, "close code")


@suite.case("flood: 50,000 frames that ask for nothing; the session goes on")
def _():
    with in_session() as client:
        client.send((zero_masked(BINARY, encode(0, pong=None)) + zero_masked(PONG, b"")) * 50_000)
        client.still_works()


UNREAD = [
    ("publishes to unknown channels", {"publish": {"channel": 1 << 60, "producer": 1, "sequence": 1, "body": b""}}),
    ("requests for history", {"history": {"channel": 1 << 60, "messagesMax": 1 << 31, "newest": None}}),
    ("subscribes", {"subscribe": {"channel": "no-such-channel", "live": None}}),
    ("refreshes with garbage", {"refresh": {"token": "e30.e30.e30"}}),
]


@suite.case("flood: requests whose answers nobody reads end with 4201, of four kinds at once")
def _():
    def flood(kind):
        what, request = kind
        with in_session() as client:
            # The kernels hold some megabytes for both sides. Once the session is ended the node may stop reading, or throw away what
            # still comes until the client has had its time to read the end: so much in all is far more than it may answer.
            wire = zero_masked(BINARY, encode(5, **request)) * 1000
            poured = 0
            while poured < FLOOD_BYTES_MAX and client.pour(wire):
                poured += len(wire)
            code, frames = client.end()
            equal(code, 4201, f"{what}: close code after {frames} answers")

    all_at_once(flood, UNREAD)


@suite.case("flood: names of 250 KiB are refused one by one, and not sent back")
def _():
    with in_session() as client:
        one = zero_masked(BINARY, encode(5, subscribe={"channel": "x" * 250_000, "live": None}))
        for _ in range(800):
            client.send(one)
        for _, member, content in client.answers(800):
            equal((member, content["code"], len(content["channel"])), ("error", 4003, 128))


@suite.case("flood: 300 sessions come and go")
def _():
    def come_and_go(_):
        with in_session() as client:
            client.pour(zero_masked(BINARY, encode(1, subscribe={"channel": options.channel, "live": None})))

    all_at_once(come_and_go, range(300))


@suite.case("flood: 5 hellos with 1,000 subscriptions each, to channels there are none of, are refused one by one")
def _():
    def ask(subscriptions):
        with before_hello() as client:
            client.send(zero_masked(BINARY, encode(1, hello=hello(options.token, subscriptions=subscriptions))))
            welcome, *answers = client.answers(1001)
            equal(welcome[1], "welcome")
            found = sorted((content["code"], content["channel"]) for _, _, content in answers)
            equal(found, sorted((4005, one["channel"]) for one in subscriptions), "answers")

    subscription = lambda: {"channel": f"{rng.randrange(1 << 64):x}-{'n' * 100}", "live": None}
    all_at_once(ask, [[subscription() for _ in range(1000)] for _ in range(5)])


# Requests that ask for too much.


def make_channels(count):
    """Channels of which the token's user is a member."""
    names = [f"hostile-{os.getpid()}-{number}" for number in range(count)]
    claims = options.token.split(".")[1]
    user = json.loads(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4)))["sub"]
    fields = {"Authorization": f"Bearer {options.api_key}", "Content-Type": "application/json"}

    def make(some):
        api = http.client.HTTPConnection(urlsplit(options.api).netloc, timeout=10)
        with contextlib.closing(api):
            for name in some:
                channel = {"name": name, "kind": "group", "members": [{"user": user, "role": "owner"}]}
                api.request("POST", "/v1/channels", json.dumps(channel), fields)
                answer = api.getresponse()
                text = answer.read()
                equal(answer.status, 201, f"status of {text!r}")

    all_at_once(make, [names[part::16] for part in range(16)])
    return names


@suite.case("subscriptions: one more than there may be is refused with 4008, and a place that is free again is given")
def _():
    if options.api is None or options.api_key is None:
        raise Skipped("no --api and --api-key")
    with Session.open(options.url, options.token) as session:
        names = make_channels(session.welcome["subscriptionsMax"] + 1)
        for name in names[:-1]:
            session.send(next(session.requests), subscribe={"channel": name, "attach": None})
        answers = [session.read() for _ in names[:-1]]
        equal({member for _, member, _ in answers}, {"subscribed"}, "answers")
        channels = {content["name"]: content["channel"] for _, _, content in answers}
        equal(sorted(channels), sorted(names[:-1]), "channels")
        last = {"channel": names[-1], "live": None}
        equal(session.refused(4008, subscribe=last)["channel"], names[-1], "channel of the error")
        # One that is there already takes no place.
        session.subscribe(names[0])
        session.ask("unsubscribed", unsubscribe={"channel": channels[names[1]]})
        session.ask("subscribed", subscribe=last)


@suite.case("subscriptions: taken and given back 400 times without waiting, each request has its answer")
def _():
    with in_session() as client:
        client.send(zero_masked(BINARY, encode(1, subscribe={"channel": options.channel, "live": None})))
        channel = client.answers(1)[0][2]["channel"]
        wire = b""
        for number in range(2, 802, 2):
            wire += zero_masked(BINARY, encode(number, unsubscribe={"channel": channel}))
            wire += zero_masked(BINARY, encode(number + 1, subscribe={"channel": options.channel, "live": None}))
        client.send(wire)
        answers = client.answers(800)
        equal(sorted(request for request, _, _ in answers), list(range(2, 802)), "requests answered")
        for request, member, content in answers:
            expect = "subscribed" if request % 2 else "unsubscribed"
            require(member == expect or content.get("code") in (4012, 4101), f"{request}: {member} {content}")
        client.send(zero_masked(BINARY, encode(802, unsubscribe={"channel": channel})))
        client.answers(1)
        client.still_works()


@suite.case("publish: to 500 channels that nobody has told it of, each is refused with 4012")
def _():
    with in_session() as client:
        channels = [1, 2**63, 2**64 - 1] + [rng.randrange(1, 1 << 64) for _ in range(497)]
        publishes = [{"channel": channel, "producer": 1, "sequence": 1, "body": b"x"} for channel in channels]
        client.send(b"".join(zero_masked(BINARY, encode(n, publish=one)) for n, one in enumerate(publishes, 1)))
        codes = {content["code"] for _, _, content in client.answers(500)}
        equal(codes, {4012}, "codes")
        client.still_works()


@suite.case("history: whatever is asked for, a page is a page")
def _():
    with Session.open(options.url, options.token) as session:
        channel = session.subscribe(options.channel, attach=None)["channel"]
        most = 2**64 - 1
        for start in [{"newest": None}, {"before": 1}, {"before": most}, {"after": 0}, {"after": 2**63}, {"after": most}]:
            for count in [0, 1, 1001, 2**32 - 1]:
                page = session.ask("page", history={"channel": channel, "messagesMax": count, **start})
                offsets = [message["position"]["offset"] for message in page["messages"]]
                require(len(offsets) <= max(1, min(count, 1000)), f"{len(offsets)} messages of {count}")
                equal(offsets, sorted(set(offsets)), "offsets")
                if "before" in start and start["before"] == 1 or "after" in start and start["after"]:
                    equal((offsets, page["more"]), ([], False), f"page {start}")
                else:
                    require(offsets, f"an empty page {start}")


@suite.case("history: 500 requests at once are answered or refused with 4100 or 4101")
def _():
    with in_session() as client:
        client.send(zero_masked(BINARY, encode(1, subscribe={"channel": options.channel, "attach": None})))
        channel = client.answers(1)[0][2]["channel"]
        ask = {"channel": channel, "messagesMax": 2**32 - 1, "after": 0}
        client.send(b"".join(zero_masked(BINARY, encode(number, history=ask)) for number in range(2, 502)))
        pages = 0
        for _, member, content in client.answers(500):
            pages += member == "page"
            require(member == "page" or content["code"] in (4100, 4101), f"{member} {content}")
        require(pages >= 16, f"{pages} pages")
        client.still_works()


@suite.case("resume: from places that cannot be, the session goes on")
def _():
    with Session.open(options.url, options.token) as session:
        most, last = 2**64 - 1, 2**32 - 1
        for epoch, offset, codes in [(last, most, (4300, 4302)), (1, most, (4302,)), (last, 0, (4300, 4302))]:
            recovery = session.subscribe(options.channel, after={"epoch": epoch, "offset": offset})["recovery"]
            require(recovery.get("reload") in codes, f"{recovery} for {(epoch, offset)}")
        session.subscribe(options.channel, attach=None)


@suite.case("refresh: 60 tokens of garbage are refused with 4400, the one in force stays")
def _():
    header, claims, signature = options.token.split(".")
    with Session.open(options.url, options.token) as session:
        tokens = ["", ".", "..", "...", "é.é.é", "e30.e30.", f"{header}.{claims}.", f"{header}..{signature}"]
        tokens += [f".{claims}.{signature}", f"{claims}.{header}.{signature}", options.token + "A", "[" * 4096]
        tokens += [f"{header}.{claims}.{'A' * (4096 - len(header) - len(claims) - 2)}"]
        while len(tokens) < 60:
            spoilt = bytearray(options.token.encode())
            spoilt[rng.randrange(len(spoilt) - 1)] = rng.choice(b"! \0~")
            tokens.append(spoilt.decode())
        for token in tokens:
            session.refused(4400, refresh={"token": token})
        session.ask("refreshed", refresh={"token": options.token})


# What it comes to in the end.


@suite.case(f"crowd: each of {HALF_OPEN} who begin and never go on has an end, by the limit for hello")
def _():
    crowd.judge()


@suite.case("slowloris: 50 who send a byte at a time have an end by the same limit")
def _():
    slowloris.judge()


@suite.case("witness: each message came once, in order and in time")
def _():
    count = witness.stop()
    require(count > 50, f"only {count} messages")
    print(f"      {count} messages; slowest {', '.join(f'{what} {s * 1000:.0f} ms' for what, s in witness.slowest.items())}")


@suite.case("node: healthy, ready, and nobody is left")
def _():
    if options.admin is None:
        raise Skipped("no --admin")
    for path in ("/healthz", "/readyz"):
        equal(get(f"{options.admin}{path}")[0], 200, f"status of {path}")
    until = time.monotonic() + LATE_SECONDS + 5
    while (left := metric(options.admin, "millrace_data_connections")) > before_connections:
        require(time.monotonic() < until, f"{left} connections are left of {before_connections} at first")
        time.sleep(0.1)
    equal(metric(options.admin, "millrace_data_queued_bytes"), 0, "bytes that wait for somebody")


@suite.case(f"node: its memory grew by less than {PEAK_MIB_MAX} MiB, and by less than {LEFT_MIB_MAX} MiB for good")
def _():
    if process is None:
        raise Skipped("no --pid")
    left = process.stop() - process.before
    peak = process.peak - process.before
    print(f"      at first {process.before:.0f} MiB, at most {peak:.0f} more, in the end {left:.0f} more")
    require(peak < PEAK_MIB_MAX, f"it grew by {peak:.0f} MiB at most")
    require(left < LEFT_MIB_MAX, f"it grew by {left:.0f} MiB for good")


def too_late():
    print(f"FAIL  time: it is not done after {SECONDS_MAX} s\n0 passed, 1 failed", flush=True)
    os._exit(1)


watchdog = threading.Timer(SECONDS_MAX, too_late)
watchdog.daemon = True
watchdog.start()
print(f"seed {seed}", flush=True)
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, HALF_OPEN + 1000)), hard))
process = Process(options.pid) if options.pid else None
before_connections = metric(options.admin, "millrace_data_connections") if options.admin else 0
witness = Witness(options.url, options.token, options.channel)
crowd = Crowd(options.url, options.handshake_seconds, HALF_OPEN, HELLO)
slowloris = Slowloris(options.url, options.handshake_seconds, 50)
suite.run(options.only)
