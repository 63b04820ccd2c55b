"""A WebSocket client on a bare socket that sends what libraries refuse to send, and trusts nothing that it reads."""

import base64
import hashlib
import os
import socket
import ssl
import struct
from urllib.parse import urlsplit

from suite import Failure, equal, require

TIMEOUT_SECONDS = 10
TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10


def frame(opcode, payload=b"", *, fin=True, rsv=0, masked=True, length=None, form=None):
    """Bytes of a frame, right or wrong.

    `length` claims another payload length than that of `payload`; `form` forces the length into 7, 16 or 64 bits.
    """
    length = len(payload) if length is None else length
    if form is None:
        form = 7 if length < 126 else 16 if length < 65536 else 64
    mask_bit = 0x80 if masked else 0
    head = bytes([(0x80 if fin else 0) | rsv << 4 | opcode])
    if form == 7:
        head += bytes([mask_bit | length])
    elif form == 16:
        head += bytes([mask_bit | 126]) + struct.pack(">H", length)
    else:
        head += bytes([mask_bit | 127]) + struct.pack(">Q", length)
    if not masked:
        return head + payload
    key = os.urandom(4)
    return head + key + mask(payload, key)


def mask(payload, key):
    repeated = (key * (len(payload) // 4 + 1))[: len(payload)]
    return (int.from_bytes(payload, "big") ^ int.from_bytes(repeated, "big")).to_bytes(len(payload), "big")


def close_payload(code, reason=b""):
    return struct.pack(">H", code) + reason


class Socket:
    """A TCP or TLS connection with a buffer. Every read has a deadline."""

    def __init__(self, url):
        parts = urlsplit(url)
        self.host, self.target = parts.netloc, parts.path or "/"
        port = parts.port or (443 if parts.scheme == "wss" else 80)
        self.socket = socket.create_connection((parts.hostname, port), timeout=TIMEOUT_SECONDS)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if parts.scheme == "wss":
            # SSL_CERT_FILE names the authority. An end that was not told by TLS is an error.
            context = ssl.create_default_context()
            self.socket = context.wrap_socket(
                self.socket, server_hostname=parts.hostname, suppress_ragged_eofs=False
            )
        self.buffer = b""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def send(self, data, chop=None):
        for at in range(0, len(data), chop or len(data) or 1):
            self.socket.sendall(data[at : at + chop] if chop else data)

    def fill(self):
        """Reads on; false at the end. A reset counts as the end only to those who ask for it."""
        data = self.socket.recv(65536)
        self.buffer += data
        return bool(data)

    def take(self, count):
        while len(self.buffer) < count:
            require(self.fill(), f"the server ended the connection with {len(self.buffer)} bytes of {count}")
        taken, self.buffer = self.buffer[:count], self.buffer[count:]
        return taken

    def expect_end(self):
        """The server hangs up by itself, and has nothing more to say."""
        try:
            while self.fill():
                pass
        except ConnectionResetError:
            raise Failure("the server reset the connection, so that its last words may be lost")
        except TimeoutError:
            raise Failure("the server did not hang up")
        equal(self.buffer, b"", "bytes after the last frame")

    def request(self, **change):
        """The head of an upgrade request; `change` replaces a field, adds one, or takes one away with None."""
        fields = {
            "Host": self.host,
            "Upgrade": "websocket",
            "Connection": "Upgrade",
            "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
            "Sec-WebSocket-Version": "13",
        }
        line = change.pop("line", f"GET {self.target} HTTP/1.1")
        fields.update({name.replace("_", "-"): value for name, value in change.items()})
        lines = [f"{name}: {value}" for name, value in fields.items() if value is not None]
        return "\r\n".join([line, *lines, "", ""]).encode()

    def response(self):
        """Status and header fields, with lower-case names, of the answer."""
        while b"\r\n\r\n" not in self.buffer:
            require(self.fill(), f"no whole response: {self.buffer[:200]!r}")
        head, self.buffer = self.buffer.split(b"\r\n\r\n", 1)
        line, *fields = head.decode().split("\r\n")
        version, status, _ = line.split(" ", 2)
        equal(version, "HTTP/1.1")
        pairs = [field.split(": ", 1) for field in fields]
        return int(status), {name.lower(): value for name, value in pairs}


class Raw(Socket):
    """The same after a handshake, speaking frames."""

    def __init__(self, url, subprotocol=None, extensions=None):
        super().__init__(url)
        key = base64.b64encode(os.urandom(16)).decode()
        change = {"Sec_WebSocket_Protocol": subprotocol, "Sec_WebSocket_Extensions": extensions}
        self.send(self.request(Sec_WebSocket_Key=key, **change))
        status, fields = self.response()
        equal(status, 101, "status")
        expect = hashlib.sha1((key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode()).digest()
        equal(fields.get("sec-websocket-accept"), base64.b64encode(expect).decode(), "Sec-WebSocket-Accept")
        equal(fields.get("sec-websocket-protocol"), subprotocol, "sub-protocol")

    def frame(self, *arguments, chop=None, **options):
        self.send(frame(*arguments, **options), chop)

    def read(self, rsv=0):
        """One frame from the server, strictly: opcode and payload."""
        first, second = self.take(2)
        require(first & 0x70 == rsv << 4, f"reserved bits in {first:#x}")
        require(first & 0x80, "a fragment, which this server has no reason to send")
        require(second & 0x80 == 0, "a masked frame from a server")
        length = second & 0x7F
        if length == 126:
            (length,) = struct.unpack(">H", self.take(2))
            require(length > 125, "a length in more bytes than it needs")
        elif length == 127:
            (length,) = struct.unpack(">Q", self.take(8))
            require(length > 65535, "a length in more bytes than it needs")
        return first & 0x0F, self.take(length)

    def expect(self, opcode, payload):
        equal(self.read(), (opcode, payload), "frame")

    def expect_close(self, code):
        """A close frame with this code (None: with no payload), and the end once we have answered it."""
        opcode, payload = self.read()
        equal(opcode, CLOSE, "opcode")
        found = struct.unpack(">H", payload[:2])[0] if payload else None
        equal(found, code, "close code")
        payload[2:].decode()
        try:
            self.frame(CLOSE, payload)
        except (BrokenPipeError, ConnectionResetError):
            pass
        self.expect_end()
