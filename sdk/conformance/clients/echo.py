"""Judges an echo server over our WebSocket codec: the `websockets` library for what is right, bare sockets for what is wrong.

python3 echo.py --url ws://127.0.0.1:PORT [--message-bytes-max N] [--only TEXT]
"""

import argparse
import os
import threading
from contextlib import ExitStack

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from deflate import deflate, inflate
from raw import BINARY, CLOSE, PING, PONG, TEXT, Raw, Socket, close_payload, frame
from suite import Suite, equal, require

arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
arguments.add_argument("--url", required=True)
arguments.add_argument("--message-bytes-max", type=int, default=16 << 20, help="limit of the server (default: its own)")
arguments.add_argument("--only", help="run the cases that have this in their name")
options = arguments.parse_args()
suite = Suite()

SIZES = [0, 1, 2, 3, 124, 125, 126, 127, 128, 65534, 65535, 65536, 65537, 1 << 20]


def open_library(**more):
    return connect(options.url, max_size=None, open_timeout=10, close_timeout=10, **more)


# The handshake.


AGREED = "permessage-deflate; server_no_context_takeover; client_no_context_takeover"


@suite.case("handshake: the library's, with the compression that it offers")
def _():
    with open_library() as client:
        equal(client.response.status_code, 101)
        equal(client.response.headers.get("Sec-WebSocket-Extensions"), AGREED, "extensions")
        equal(client.subprotocol, None, "sub-protocol")


@suite.each(
    "handshake: {0!r} is answered {1!r}",
    [
        ("permessage-deflate", AGREED),
        ("x-webkit-deflate-frame", None),
        ("permessage-deflate; server_max_window_bits=8", None),
        ("permessage-deflate; server_max_window_bits=8, permessage-deflate", AGREED),
        ("permessage-deflate; server_max_window_bits=10", f"{AGREED}; server_max_window_bits=9"),
        ("permessage-deflate; client_max_window_bits=10", AGREED),
        ("permessage-deflate; server_max_window_bits=16", None),
        ("permessage-deflate; server_max_window_bits", None),
        ("permessage-deflate; mode=fast", None),
        ("permessage-deflate; server_no_context_takeover; server_no_context_takeover", None),
    ],
)
def _(offer, expect):
    with Socket(options.url) as client:
        client.send(client.request(Sec_WebSocket_Extensions=offer))
        status, fields = client.response()
        equal((status, fields.get("sec-websocket-extensions")), (101, expect))


# Compression.


@suite.each("compression: the library's, text and binary of {0} bytes come back", [(size,) for size in SIZES])
def _(size):
    text = ("añ✓𝄞-" * (size // 3 + 1)).encode()[:size].decode(errors="ignore")
    with open_library() as client:
        for message in [text, os.urandom(size), text.encode()]:
            client.send(message)
            equal(client.recv(timeout=20), message)


@suite.case("compression: fragments of a compressed message, with a ping and a plain message between")
def _():
    with Raw(options.url, extensions="permessage-deflate") as client:
        payload = deflate("grüße ".encode() * 500)
        client.send(frame(TEXT, payload[:7], fin=False, rsv=4) + frame(PING, b"p") + frame(0, payload[7:]) + frame(TEXT, b"plain"))
        client.expect(PONG, b"p")
        opcode, answer = client.read(rsv=4)
        equal((opcode, inflate(answer)), (TEXT, "grüße ".encode() * 500))
        client.expect(TEXT, b"plain")


@suite.each(
    "compression: {0} ends with {1}",
    [
        ("a bomb of 64 MiB in 64 KiB", 1009, lambda: frame(BINARY, deflate(bytes(64 << 20)), rsv=4)),
        ("a stream that is none", 1007, lambda: frame(BINARY, b"\xff" * 50, rsv=4)),
        ("half of a message", 1007, lambda: frame(BINARY, deflate(os.urandom(500))[:250], rsv=4)),
        ("text that is not UTF-8", 1007, lambda: frame(TEXT, deflate(b"\xff" * 50), rsv=4)),
        ("a compressed ping", 1002, lambda: frame(PING, deflate(b"p"), rsv=4)),
        ("RSV1 on a continuation", 1002, lambda: frame(BINARY, b"", fin=False, rsv=4) + frame(0, b"\0", rsv=4)),
        ("RSV2", 1002, lambda: frame(BINARY, b"\0", rsv=2)),
    ],
)
def _(_, code, wire):
    with Raw(options.url, extensions="permessage-deflate") as client:
        client.send(wire())
        client.expect_close(code)


@suite.each(
    "handshake: {0} is answered {1}",
    [
        ("POST", 405, {"line": "POST / HTTP/1.1"}),
        ("HTTP/1.0", 400, {"line": "GET / HTTP/1.0"}),
        ("a request line that is none", 400, {"line": "hello"}),
        ("plain HTTP", 426, {"Upgrade": None, "Connection": None}),
        ("another upgrade", 426, {"Upgrade": "h2c"}),
        ("version 8", 426, {"Sec_WebSocket_Version": "8"}),
        ("no version", 400, {"Sec_WebSocket_Version": None}),
        ("no Connection: Upgrade", 400, {"Connection": "keep-alive"}),
        ("no host", 400, {"Host": None}),
        ("no key", 400, {"Sec_WebSocket_Key": None}),
        ("a short key", 400, {"Sec_WebSocket_Key": "c2hvcnQ="}),
        ("a key that is no base64", 400, {"Sec_WebSocket_Key": "!" * 22 + "=="}),
        ("a body", 400, {"Content_Length": "4"}),
        ("a head of 9 KiB", 431, {"X_Long": "x" * 9000}),
    ],
)
def _(_, expect, change):
    with Socket(options.url) as client:
        client.send(client.request(**change))
        status, fields = client.response()
        equal(status, expect, "status")
        if status == 426:
            equal(fields.get("sec-websocket-version"), "13", "Sec-WebSocket-Version")
        body = client.take(int(fields["content-length"]))
        require(len(body) > 10, "a text that helps")
        client.expect_end()


@suite.case("handshake: byte by byte")
def _():
    with Socket(options.url) as client:
        client.send(client.request(), chop=1)
        status, fields = client.response()
        equal((status, fields["sec-websocket-accept"]), (101, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="))


@suite.case("handshake: frames in the same segment")
def _():
    with Socket(options.url) as client:
        client.send(client.request() + frame(TEXT, b"early") + frame(CLOSE, close_payload(1000)))
        equal(client.response()[0], 101, "status")
        equal(client.take(7), b"\x81\x05early")
        equal(client.take(4), b"\x88\x02\x03\xe8")
        client.expect_end()


@suite.case("handshake: TLS on the plain port ends at once")
def _():
    with Socket(options.url) as client:
        client.send(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + os.urandom(32))
        equal(client.response()[0], 400, "status")


# Messages, by the library.


@suite.each("library: text of {0} bytes comes back", [(size,) for size in SIZES])
def _(size):
    text = ("añ✓𝄞-" * (size // 3 + 1)).encode()[:size].decode(errors="ignore")
    text += "x" * (size - len(text.encode()))
    with open_library(compression=None) as client:
        client.send(text)
        equal(client.recv(timeout=20), text)


@suite.each("library: binary of {0} bytes comes back", [(size,) for size in SIZES])
def _(size):
    data = os.urandom(size)
    with open_library(compression=None) as client:
        client.send(data)
        equal(client.recv(timeout=20), data)


@suite.case("library: fragmented messages come back whole")
def _():
    with open_library(compression=None) as client:
        client.send(iter(["frag", "", "ment ✓"]))
        equal(client.recv(timeout=10), "fragment ✓")
        pieces = [os.urandom(1000) for _ in range(300)]
        client.send(iter(pieces))
        equal(client.recv(timeout=10), b"".join(pieces))


@suite.case("library: 1,000 messages come back in order")
def _():
    with open_library(compression=None) as client:
        reader_errors = []

        def read():
            try:
                for number in range(1000):
                    equal(client.recv(timeout=20), str(number))
            except Exception as error:
                reader_errors.append(error)

        reader = threading.Thread(target=read)
        reader.start()
        for number in range(1000):
            client.send(str(number))
        reader.join()
        if reader_errors:
            raise reader_errors[0]


@suite.case("library: pings are answered, also empty and of 125 bytes")
def _():
    with open_library() as client:
        for payload in [b"", b"x", os.urandom(125)]:
            require(client.ping(payload).wait(10), "a pong")


@suite.each("library: close {0} is answered with the same code", [(1000,), (1001,), (3000,), (4203,), (4999,)])
def _(code):
    with open_library() as client:
        client.close(code, "why ✓")
    equal((client.protocol.close_rcvd.code, client.protocol.close_rcvd_then_sent), (code, False))


@suite.case("library: 50 connections at once")
def _():
    with ExitStack() as stack:
        clients = [stack.enter_context(open_library()) for _ in range(50)]
        for number, client in enumerate(clients):
            client.send(f"hello {number}")
        for number, client in enumerate(clients):
            equal(client.recv(timeout=10), f"hello {number}")


@suite.case("library: a message over the limit is told 1009")
def _():
    with open_library(compression=None) as client:
        try:
            client.send(b"x" * (options.message_bytes_max + 1))
            client.recv(timeout=20)
            require(False, "the message came back")
        except ConnectionClosed as closed:
            equal(closed.rcvd and closed.rcvd.code, 1009, "close code")


# Frames that a library will not send.

PING_BETWEEN = [
    (TEXT, b"one ", {"fin": False}),
    (PING, b"now", {}),
    (0, b"two ", {"fin": False}),
    (PONG, b"unasked", {}),
    (0, b"three", {}),
]


@suite.each("raw: a ping between fragments is answered first, in chops of {0}", [(None,), (1,), (3,), (7,)])
def _(chop):
    with Raw(options.url) as client:
        for opcode, payload, more in PING_BETWEEN:
            client.frame(opcode, payload, chop=chop, **more)
        client.expect(PONG, b"now")
        client.expect(TEXT, b"one two three")


@suite.each("raw: text of {0} bytes in chops of {1}", [(0, 1), (126, 1), (65536, 997), (65536, 4096), (300_000, 65535)])
def _(size, chop):
    with Raw(options.url) as client:
        client.frame(TEXT, b"*" * size, chop=chop)
        client.expect(TEXT, b"*" * size)


@suite.case("raw: characters split between fragments and reads")
def _():
    text = "κόσμε 𝄞 ✓".encode()
    with Raw(options.url) as client:
        client.frame(TEXT, b"", fin=False)
        for byte in text:
            client.frame(0, bytes([byte]), fin=False, chop=1)
        client.frame(0, b"")
        client.expect(TEXT, text)


@suite.case("raw: ten pings and a message in one segment")
def _():
    with Raw(options.url) as client:
        pings = [bytes([number]) * number for number in range(10)]
        client.send(b"".join(frame(PING, ping) for ping in pings) + frame(BINARY, b"end"))
        for ping in pings:
            client.expect(PONG, ping)
        client.expect(BINARY, b"end")


BROKEN = [
    ("an unmasked text frame", 1002, frame(TEXT, b"x", masked=False)),
    ("an unmasked ping", 1002, frame(PING, b"x", masked=False)),
    ("an unmasked close", 1002, frame(CLOSE, close_payload(1000), masked=False)),
    *[(f"reserved bits {rsv:03b}", 1002, frame(TEXT, b"x", rsv=rsv)) for rsv in range(1, 8)],
    *[(f"reserved bits {rsv:03b} on a ping", 1002, frame(PING, b"x", rsv=rsv)) for rsv in (1, 2, 4)],
    *[(f"reserved opcode {opcode}", 1002, frame(opcode, b"x")) for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)],
    ("a fragmented ping", 1002, frame(PING, b"x", fin=False)),
    ("a fragmented close", 1002, frame(CLOSE, close_payload(1000), fin=False)),
    ("a ping of 126 bytes", 1002, frame(PING, b"x" * 126)),
    ("a close of 126 bytes", 1002, frame(CLOSE, close_payload(1000, b"x" * 124))),
    ("a continuation of nothing", 1002, frame(0, b"x")),
    ("text within a message", 1002, frame(TEXT, b"x", fin=False) + frame(TEXT, b"y")),
    ("binary within a message", 1002, frame(TEXT, b"x", fin=False) + frame(BINARY, b"y")),
    ("a length of 5 in 16 bits", 1002, frame(BINARY, b"12345", form=16)),
    ("a length of 5 in 64 bits", 1002, frame(BINARY, b"12345", form=64)),
    ("a length of 65535 in 64 bits", 1002, frame(BINARY, b"", length=65535, form=64)),
    ("a length with its highest bit", 1002, frame(BINARY, b"", length=1 << 63, form=64)),
    ("a length of 2^63 - 1", 1009, frame(BINARY, b"", length=(1 << 63) - 1, form=64)),
    ("a frame over the limit by 1", 1009, frame(BINARY, b"", length=options.message_bytes_max + 1, form=64)),
    (
        "fragments over the limit by 1",
        1009,
        frame(BINARY, b"x" * 1000, fin=False) + frame(0, b"", length=options.message_bytes_max - 999, form=64),
    ),
    ("a close of one byte", 1002, frame(CLOSE, b"\x03")),
    *[
        (f"close code {code}", 1002, frame(CLOSE, close_payload(code)))
        for code in (0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535)
    ],
    ("a close reason that is not UTF-8", 1007, frame(CLOSE, close_payload(1000, b"\xce\xba\xe1"))),
]


@suite.each("raw: {0} is told {1}", BROKEN)
def _(_, code, wire):
    with Raw(options.url) as client:
        client.send(wire)
        client.expect_close(code)


@suite.case("raw: a continuation after the last fragment is told 1002, the message before it comes back")
def _():
    with Raw(options.url) as client:
        client.send(frame(TEXT, b"a", fin=False) + frame(0, b"b") + frame(0, b"c"))
        client.expect(TEXT, b"ab")
        client.expect_close(1002)


@suite.each("raw: {0} in single bytes is told {1}", BROKEN[:4] + BROKEN[-3:])
def _(_, code, wire):
    with Raw(options.url) as client:
        for at in range(len(wire)):
            try:
                client.send(wire[at : at + 1])
            except (BrokenPipeError, ConnectionResetError):
                break
        client.expect_close(code)


BAD_TEXT = [
    ("a lone continuation byte", b"\x80"),
    ("a lone start byte", b"\xc3"),
    ("an overlong slash", b"\xc0\xaf"),
    ("an overlong NUL of 3 bytes", b"\xe0\x80\x80"),
    ("a surrogate", b"\xed\xa0\x80"),
    ("a pair of surrogates", b"\xed\xa0\xbd\xed\xb8\x80"),
    ("a code point over U+10FFFF", b"\xf4\x90\x80\x80"),
    ("a sequence of 5 bytes", b"\xf8\x88\x80\x80\x80"),
    ("0xff", b"\xff"),
    ("an end within a character", b"ok \xf0\x9d\x84"),
]


@suite.each("raw: text with {0} is told 1007", BAD_TEXT)
def _(_, text):
    with Raw(options.url) as client:
        client.frame(TEXT, text)
        client.expect_close(1007)


@suite.each("raw: text with {0} in fragments of a byte is told 1007", BAD_TEXT)
def _(_, text):
    with Raw(options.url) as client:
        wire = frame(TEXT, b"", fin=False) + b"".join(frame(0, bytes([byte]), fin=False) for byte in text)
        client.send(wire + frame(0, b""))
        client.expect_close(1007)


@suite.each("raw: {0} is told 1007 before its frame ends", [row for row in BAD_TEXT if row[1] != BAD_TEXT[-1][1]][2:8])
def _(_, text):
    with Raw(options.url) as client:
        client.frame(TEXT, text, length=len(text) + 1000, form=16)
        client.expect_close(1007)


@suite.each("raw: binary with {0} comes back", BAD_TEXT)
def _(_, data):
    with Raw(options.url) as client:
        client.frame(BINARY, data)
        client.expect(BINARY, data)


# The closing handshake.


@suite.each(
    "close: code {0} comes back",
    [(code,) for code in (1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999)],
)
def _(code):
    with Raw(options.url) as client:
        client.frame(CLOSE, close_payload(code, "grund ✓".encode()))
        opcode, payload = client.read()
        equal((opcode, payload[:2]), (CLOSE, close_payload(code)))
        client.expect_end()


@suite.case("close: without a code comes back without one")
def _():
    with Raw(options.url) as client:
        client.frame(CLOSE)
        client.expect(CLOSE, b"")
        client.expect_end()


@suite.case("close: a reason of 123 bytes is taken")
def _():
    with Raw(options.url) as client:
        client.frame(CLOSE, close_payload(1000, b"*" * 123))
        equal(client.read()[0], CLOSE)
        client.expect_end()


@suite.case("close: what comes before is answered, what comes after is not")
def _():
    with Raw(options.url) as client:
        client.send(
            frame(TEXT, b"before")
            + frame(TEXT, b"unfinished", fin=False)
            + frame(CLOSE, close_payload(1000))
            + frame(PING, b"after")
            + frame(TEXT, b"after")
            + b"\xff\xff nonsense"
        )
        client.expect(TEXT, b"before")
        client.expect(CLOSE, close_payload(1000))
        client.expect_end()


@suite.case("close: in single bytes between fragments")
def _():
    with Raw(options.url) as client:
        client.frame(TEXT, b"unfinished", fin=False, chop=1)
        client.frame(CLOSE, close_payload(4000, b"bye"), chop=1)
        client.expect(CLOSE, close_payload(4000))
        client.expect_end()


@suite.case("close: a client that hangs up without a word does no harm")
def _():
    for _ in range(20):
        with Raw(options.url) as client:
            client.frame(BINARY, b"x" * 10, length=60_000, form=16)
    with Raw(options.url) as client:
        client.frame(TEXT, b"alive")
        client.expect(TEXT, b"alive")


suite.run(options.only)
