"""Clients that do what no library does, and crowds of them. Each has an end: `limit_seconds` is the node's own for a hello."""

import concurrent.futures
import contextlib
import select
import socket
import struct
import threading
import time

from raw import BINARY, CLOSE, Raw, Socket, frame
from session import SUBPROTOCOL, decode, encode
from suite import Failure, equal, require

# Beyond the limit by so much, an end is late.
LATE_SECONDS = 5
# A node that takes nothing for so long has something to say.
STUCK_SECONDS = 1.5
DRIP_SECONDS = 0.02


def zero_masked(opcode, payload, **more):
    """A frame masked with a key of zeros, which is allowed and costs nothing to make."""
    plain = bytearray(frame(opcode, payload, masked=False, **more))
    plain[1] |= 0x80
    head = len(plain) - len(payload)
    return bytes(plain[:head]) + bytes(4) + bytes(plain[head:])


class Stranger(Raw):
    """A WebSocket, or with a hello a session, that goes on writing whatever the node says."""

    def __init__(self, url, limit_seconds, hello=None):
        super().__init__(url, SUBPROTOCOL)
        self.read_seconds = limit_seconds + LATE_SECONDS
        self.socket.settimeout(self.read_seconds)
        if hello:
            self.send(zero_masked(BINARY, hello))
            equal(decode(self.read()[1])[1], "welcome", "answer to hello")

    def pour(self, wire):
        """Sends as much as the node takes; false if that was not all. It may hang up or stop reading at any byte."""
        self.socket.settimeout(STUCK_SECONDS)
        try:
            self.send(wire)
        except (BrokenPipeError, ConnectionResetError, TimeoutError):
            return False
        finally:
            self.socket.settimeout(self.read_seconds)
        return True

    def end(self):
        """The code with which the node ends it, and how many frames came before."""
        frames = 0
        while True:
            opcode, payload = self.read()
            if opcode == CLOSE:
                code = struct.unpack(">H", payload[:2])[0] if payload else None
                return code, frames
            frames += 1

    def answers(self, count):
        """The next answers to requests, with what they say; messages, pings and pongs are passed over."""
        found = []
        while len(found) < count:
            opcode, payload = self.read()
            require(opcode != CLOSE, f"the node ended the session: {payload!r}, after {len(found)} answers")
            if opcode == BINARY and (answer := decode(payload))[0]:
                found.append(answer)
        return found

    def still_works(self):
        self.send(zero_masked(BINARY, encode(999_999, history={"channel": 1, "messagesMax": 1, "newest": None})))
        while (answer := self.answers(1)[0])[0] != 999_999:
            pass
        equal((answer[1], answer[2]["code"]), ("error", 4012), "answer to the last request")


def stranger_hears(url, limit_seconds, wire):
    """What a connection hears to these bytes until the node hangs up by itself."""
    with Socket(url) as client:
        client.socket.settimeout(limit_seconds + LATE_SECONDS)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            client.send(wire)
        try:
            while client.fill():
                pass
        except ConnectionResetError:
            pass
        except TimeoutError:
            raise Failure(f"the node did not hang up; the bytes: {wire[:200]!r}")
        return client.buffer


def all_at_once(function, rows):
    """What the function returns for each row."""
    with concurrent.futures.ThreadPoolExecutor(40) as pool:
        return list(pool.map(function, rows))


class Crowd:
    """Connections that begin and never go on: the node must end each by its handshake limit, and neither sooner nor later."""

    def __init__(self, url, limit_seconds, count, hello):
        self.limit_seconds = limit_seconds
        address = Socket(url)
        request = address.request(Sec_WebSocket_Protocol=SUBPROTOCOL)
        where = address.socket.getpeername()
        address.socket.close()
        half_frame = frame(BINARY, hello)[:-1]
        self.kinds = {
            "says nothing": b"",
            "stops in the request": request[:-3],
            "stops before hello": request,
            "stops in a frame": request + half_frame,
            "claims 256 KiB": request + frame(BINARY, b"so far", length=1 << 18, form=64),
        }
        self.poll = select.epoll()
        self.waiting, self.faults = {}, []
        for number in range(count):
            kind = list(self.kinds)[number % len(self.kinds)]
            client = socket.socket()
            client.settimeout(LATE_SECONDS)
            client.connect(where)
            client.sendall(self.kinds[kind])
            self.poll.register(client, select.EPOLLIN)
            self.waiting[client.fileno()] = (client, kind, time.monotonic(), bytearray())
        self.thread = threading.Thread(target=self.watch, daemon=True)
        self.thread.start()

    def watch(self):
        until = time.monotonic() + self.limit_seconds + LATE_SECONDS
        while self.waiting and time.monotonic() < until:
            for number, _ in self.poll.poll(0.1):
                client, kind, began, heard = self.waiting[number]
                try:
                    data = client.recv(4096)
                except ConnectionResetError:
                    data = b""
                heard += data
                if not data:
                    self.over(kind, time.monotonic() - began, bytes(heard))
                    del self.waiting[number]
                    client.close()

    def over(self, kind, seconds, heard):
        if kind in ("says nothing", "stops in the request"):
            good = heard == b""
        else:
            good = heard.startswith(b"HTTP/1.1 101 ") and struct.pack(">H", 4203) in heard.split(b"\r\n\r\n", 1)[1][:6]
        if not good or seconds < self.limit_seconds / 2:
            self.faults.append(f"{kind}: {heard!r} after {seconds:.1f} s")

    def judge(self):
        self.thread.join()
        require(not self.faults, f"{len(self.faults)} of them, such as {self.faults[:1]}")
        require(not self.waiting, f"{len(self.waiting)} are still there")


class Slowloris:
    """Requests that come a byte at a time: each byte must not put the end off."""

    def __init__(self, url, limit_seconds, count):
        self.limit_seconds = limit_seconds
        self.clients = [Socket(url) for _ in range(count)]
        self.request = self.clients[0].request(Sec_WebSocket_Protocol=SUBPROTOCOL, X_Long="x" * 4000)
        self.began = time.monotonic()
        self.left = list(self.clients)
        self.thread = threading.Thread(target=self.drip, daemon=True)
        self.thread.start()

    def drip(self):
        at = 0
        while self.left and time.monotonic() - self.began < self.limit_seconds + LATE_SECONDS:
            for client in list(self.left):
                try:
                    client.socket.sendall(self.request[at : at + 1])
                except (BrokenPipeError, ConnectionResetError):
                    self.left.remove(client)
                    client.socket.close()
            at += 1
            time.sleep(DRIP_SECONDS)
        self.seconds = time.monotonic() - self.began

    def judge(self):
        self.thread.join()
        require(not self.left, f"{len(self.left)} of {len(self.clients)} are still let drip")
        require(self.seconds >= self.limit_seconds / 2, f"it took {self.seconds:.1f} s")
