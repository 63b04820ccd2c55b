"""A Millrace session on the `websockets` library and pycapnp: neither shares a line with the node that they talk to."""

import itertools
import pathlib
import random
import select
import socket
import ssl
import threading
from urllib.parse import urlsplit

import capnp
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from suite import Failure, equal, require

SUBPROTOCOL = "millrace.v1"
PATH = "/v1/connect"
TIMEOUT_SECONDS = 10

capnp.remove_import_hook()
schema = capnp.load(str(pathlib.Path(__file__).resolve().parents[3] / "protocol" / "schema" / "client.capnp"))


def endpoint(url):
    """The URL with the path of data nodes, if it has none: `ws://127.0.0.1:7400` is what `millrace dev` prints."""
    parts = urlsplit(url)
    return parts._replace(path=parts.path if parts.path.strip("/") else PATH).geturl()


def encode(request, **body):
    """The bytes of a client frame: `encode(1, pong=None)`."""
    frame = schema.ClientFrame.new_message(request=request, **body).to_bytes()
    if frame[:4] == bytes(4):
        return frame
    # More than pycapnp's first segment took; the protocol has one segment, which then must have room for all.
    words = len(frame) // 8
    return schema.ClientFrame.new_message(num_first_segment_words=words, request=request, **body).to_bytes()


def decode(data):
    """A server frame as `(request, member, content)`."""
    with schema.ServerFrame.from_bytes(data) as frame:
        member = str(frame.which())
        content = frame.to_dict()[member]
        return frame.request, member, content


def hello(token, *, versions=(1, 1), subscriptions=()):
    return {
        "versionMin": versions[0],
        "versionMax": versions[1],
        "token": token,
        "agent": "conformance/python",
        "subscriptions": list(subscriptions),
    }


class OneAtATime(ssl.SSLSocket):
    """The library reads in one thread and writes in another, and Python's TLS loses a write that meets a session ticket
    (python/cpython#77271). So only one of them is inside TLS at a time, and neither waits there for the other side."""

    def __new__(cls, *args, **options):
        made = super().__new__(cls, *args, **options)
        made.turn = threading.Lock()
        return made

    def recv(self, size=1024, flags=0):
        while True:
            with self.turn:
                patience = self.gettimeout()
                socket.socket.settimeout(self, 0)
                try:
                    return super().recv(size, flags)
                except ssl.SSLWantReadError:
                    pass
                finally:
                    socket.socket.settimeout(self, patience)
            select.select([self], [], [])

    def sendall(self, data, flags=0):
        with self.turn:
            super().sendall(data, flags)


def tls(url):
    if not url.startswith("wss:"):
        return None
    context = ssl.create_default_context()
    context.sslsocket_class = OneAtATime
    return context


class Session:
    """Sends requests and waits for their answers; frames that answer none wait in `inbox`."""

    def __init__(self, url, compression=None):
        options = {"compression": compression, "max_size": None, "ssl": tls(url), "legacy": True}
        self.client = connect(url, subprotocols=[SUBPROTOCOL], **options)
        equal(self.client.subprotocol, SUBPROTOCOL, "sub-protocol")
        self.requests = itertools.count(1)
        self.inbox = []
        self.producer = random.randrange(1, 1 << 64)
        self.sequence = 0

    @classmethod
    def open(cls, url, token, compression=None, **more):
        session = cls(url, compression)
        session.welcome = session.ask("welcome", hello=hello(token, **more))
        return session

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.client.close()

    def send(self, request=0, **body):
        self.client.send(encode(request, **body))

    def read(self, timeout=TIMEOUT_SECONDS):
        """The next frame but pings, which it answers."""
        while True:
            try:
                data = self.client.recv(timeout)
            except TimeoutError:
                raise Failure(f"no frame within {timeout} s")
            except ConnectionClosed as closed:
                raise Failure(f"the node ended the session: {closed}")
            require(isinstance(data, bytes), f"a text frame from the node: {data!r}")
            frame = decode(data)
            if frame[1] != "ping":
                return frame
            self.send(pong=None)

    def answer(self, request):
        """The answer to a request: member and content."""
        while True:
            found, member, content = self.read()
            if found == request:
                return member, content
            require(found == 0, f"an answer to request {found}, which nobody made: {member} {content}")
            self.inbox.append((member, content))

    def ask(self, expect, **body):
        """Sends a request and returns the content of its answer, which must be of the kind expected."""
        request = next(self.requests)
        self.send(request, **body)
        member, content = self.answer(request)
        if member != expect:
            raise Failure(f"the answer is {member} {content}, expected {expect}")
        return content

    def refused(self, code, **body):
        """Sends a request that is refused while the session goes on."""
        error = self.ask("error", **body)
        equal(error["code"], code, f"code of {error['message']!r}")
        require(error["message"], "an error says something to a person")
        return error

    def subscribe(self, channel, **start):
        return self.ask("subscribed", subscribe={"channel": channel, **(start or {"live": None})})

    def publish(self, channel, body, sequence=None):
        if sequence is None:
            self.sequence += 1
        return self.ask("published", publish=self.publication(channel, body, sequence or self.sequence))

    def publication(self, channel, body, sequence):
        return {"channel": channel, "producer": self.producer, "sequence": sequence, "body": body}

    def message(self):
        """The next message of any channel."""
        while True:
            member, content = self.inbox.pop(0) if self.inbox else self.read()[1:]
            require(member == "message", f"{member} {content} instead of a message")
            return content

    def last_frame(self, code, timeout):
        """The last frame before the node closes with this code; `None` if there was none."""
        last = None
        try:
            while True:
                last = decode(self.client.recv(timeout))
        except TimeoutError:
            raise Failure(f"the node did not end the session within {timeout} s; its last frame: {last}")
        except ConnectionClosed as closed:
            require(closed.rcvd is not None, f"the connection ended without a close frame: {closed}")
            equal(closed.rcvd.code, code, "close code")
        return last

    def expect_close(self, code, timeout=TIMEOUT_SECONDS):
        """The node ends the session by itself: nothing that was sent is to blame, so nothing is answered."""
        equal(self.last_frame(code, timeout), None, "last frame before the close")

    def expect_end(self, code, *, request=0):
        """The node answers the request to blame (0: bytes that are none) with an error, then closes with the same code."""
        last = self.last_frame(code, TIMEOUT_SECONDS)
        require(last is not None, "a close frame, but no error before it")
        found, member, content = last
        equal((found, member, content.get("code")), (request, "error", code), "last frame before the close")
        require(content["message"], "an error says something to a person")
