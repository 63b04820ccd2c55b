"""Runs the cases of the Autobahn test suite against an echo server over our WebSocket codec.

python3 autobahn.py --url ws://127.0.0.1:PORT [--only 6.4] [--quick] [--compressed-messages 1000]

The suite as published needs Python 2. Its cases are taken unchanged from the installed package and run on what is here: a driver
with the few calls that they make. Text of Python 2 is bytes; here each of its characters stands for one byte. The cases on
compression (12 and 13) send 1,000 messages each; unless told otherwise they send ten here.
"""

import argparse
import ast
import asyncio
import builtins
import codecs
import importlib.util
import itertools
import pathlib
import re
import types
from urllib.parse import urlsplit

import deflate
from raw import frame
from suite import finish

CLOSED, CONNECTING, CLOSING, OPEN = range(4)


# The cases, from the package.


class Utf8Validator:
    """What the cases ask of the suite's own: validate one text, whole."""

    def reset(self):
        self.decoder = codecs.getincrementaldecoder("utf-8")()

    def validate(self, text):
        try:
            self.decoder.decode(text.encode("latin-1"))
        except UnicodeDecodeError:
            return False, False
        return True, self.decoder.getstate()[0] == b""


class WebSocketProtocol:
    STATE_CLOSED, STATE_CONNECTING, STATE_CLOSING, STATE_OPEN = CLOSED, CONNECTING, CLOSING, OPEN
    CLOSE_STATUS_CODE_NORMAL = 1000
    CLOSE_STATUS_CODE_GOING_AWAY = 1001
    CLOSE_STATUS_CODE_PROTOCOL_ERROR = 1002
    CLOSE_STATUS_CODE_INVALID_PAYLOAD = 1007


class Division(ast.NodeTransformer):
    """A division of integers yields an integer in Python 2."""

    def visit_BinOp(self, node):
        self.generic_visit(node)
        if isinstance(node.op, ast.Div):
            node.op = ast.FloorDiv()
        return node


class Loader:
    """Imports the cases' modules from source, each of them once, and gives them stand-ins for what is not here."""

    def __init__(self):
        package = importlib.util.find_spec("autobahntestsuite")
        if package is None:
            raise SystemExit("the package autobahntestsuite is not installed: pip install -r requirements.txt")
        self.folder = pathlib.Path(package.submodule_search_locations[0]) / "case"
        hexadecimal = lambda text: text.encode("latin-1").hex()
        self.modules = {
            "binascii": types.SimpleNamespace(b2a_hex=hexadecimal),
            "autobahn.websocket.protocol": types.SimpleNamespace(WebSocketProtocol=WebSocketProtocol),
            "autobahn.websocket.utf8validator": types.SimpleNamespace(Utf8Validator=Utf8Validator),
            "zope.interface": types.SimpleNamespace(implements=lambda _: None),
            "twisted.internet": types.SimpleNamespace(reactor=None, interfaces=types.SimpleNamespace(IPushProducer=None)),
            "autobahn.websocket.compress": deflate.stand_in(),
            "pkg_resources": types.SimpleNamespace(resource_filename=lambda _, path: str(self.folder.parent / path)),
        }

    def load(self, name, *_):
        if name in self.modules:
            return self.modules[name]
        path = self.folder / f"{name}.py"
        if not path.exists():
            return builtins.__import__(name)
        # Latin-1 gives each byte of a literal one character, whatever the file says of itself.
        source = re.sub(r"^.*coding[:=].*$", "", path.read_bytes().decode("latin-1"), count=1, flags=re.MULTILINE)
        source = re.sub(r"^(\s*)print( .*)?$", r"\1pass", source, flags=re.MULTILINE)
        # Classes of the old style may follow `object`.
        source = source.replace("(object, Case, )", "(Case, )")
        module = types.ModuleType(name)
        self.modules[name] = module
        module.__builtins__ = {**vars(builtins), "__import__": self.load, "xrange": range}
        exec(compile(Division().visit(ast.parse(source)), str(path), "exec"), vars(module))
        return module

    def cases(self):
        found = self.load("__init__")
        self.modules["case"].Case.compare = lambda self, one, other: one == other
        return found.Cases


def case_id(case):
    return case.__name__.removeprefix("Case").replace("_", ".")


# The driver: what the cases call `p`.


class Peer(WebSocketProtocol):
    """One connection. A case calls it back and forth; every call returns at once and takes effect in order."""

    factory = types.SimpleNamespace(isServer=False)
    createWirelog = False
    autoFragmentSize = 0
    trafficStats = {}
    # What the server agreed to, and how many of its messages were compressed.
    _perMessageCompress = None
    perMessageCompressionOffers = ()
    compressed = 0

    def __init__(self, case, url):
        self.state = CONNECTING
        self.connectionWasOpen = self.closedByMe = self.failedByMe = self.droppedByMe = self.wasClean = False
        self.localCloseCode = self.localCloseReason = self.remoteCloseCode = self.remoteCloseReason = None
        self.txFrameStats = {}
        self.fault = None
        self.outbox = asyncio.Queue()
        self.timers = []
        self.parts = urlsplit(url)
        self.case = case(self)

    async def run(self):
        self.reader, self.writer = await asyncio.open_connection(self.parts.hostname, self.parts.port, limit=1 << 26)
        sender = asyncio.create_task(self.send_on())
        try:
            await self.shake_hands()
            self.state, self.connectionWasOpen = OPEN, True
            self.case.onOpen()
            await self.receive()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            sender.cancel()
            for timer in self.timers:
                timer.cancel()
            self.writer.transport.abort()
            self.state = CLOSED
        self.case.onConnectionLost(self.failedByMe)

    async def shake_hands(self):
        offers = ", ".join(offer.text() for offer in self.perMessageCompressionOffers)
        extensions = f"Sec-WebSocket-Extensions: {offers}\r\n" if offers else ""
        self.writer.write(
            f"GET / HTTP/1.1\r\nHost: {self.parts.netloc}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n{extensions}"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        head = await self.reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 101 ") or b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" not in head:
            raise ConnectionError(f"handshake refused: {head[:80]!r}")
        answers = [line for line in head.decode().split("\r\n") if line.lower().startswith("sec-websocket-extensions:")]
        if answers:
            self._perMessageCompress = self.perMessageCompressionAccept(deflate.Agreement(answers[0].split(":", 1)[1]))

    async def send_on(self):
        """Writes what the case sends; a chop becomes a segment of its own where the kernel allows."""
        try:
            while True:
                data, chop = await self.outbox.get()
                for at in range(0, len(data), chop or len(data) or 1):
                    self.writer.write(data[at : at + chop] if chop else data)
                    if chop:
                        await asyncio.sleep(0)
                    await self.writer.drain()
        except ConnectionError:
            pass

    async def receive(self):
        while True:
            first, second = await self.reader.readexactly(2)
            length = second & 0x7F
            if length > 125:
                length = int.from_bytes(await self.reader.readexactly(2 if length == 126 else 8), "big")
            payload = await self.reader.readexactly(length)
            if first & 0x40 and self._perMessageCompress and first & 0x0F in (1, 2):
                payload = deflate.inflate(payload, self._perMessageCompress.window_bits)
                self.compressed += 1
                first &= ~0x40
            if first & 0xF0 != 0x80 or second & 0x80 or first & 0x0F not in (1, 2, 8, 9, 10):
                self.fault = f"the server sent a frame that begins with {first:#x} {second:#x}"
            opcode = first & 0x0F
            if opcode == 8:
                self.closed(payload)
            elif not self.failedByMe:
                self.deliver(opcode, payload)

    def deliver(self, opcode, payload):
        text = payload.decode("latin-1")
        if opcode in (1, 2):
            # The cases on compression take bytes for what they are.
            self.case.onMessage(payload if self._perMessageCompress else text, opcode == 2)
        elif opcode == 9:
            self.case.onPing(text)
        elif opcode == 10:
            self.case.onPong(text)

    def closed(self, payload):
        self.wasClean = True
        if payload:
            self.remoteCloseCode, self.remoteCloseReason = int.from_bytes(payload[:2], "big"), payload[2:].decode()
        if self.state == OPEN:
            self.put(frame(8, payload))
        self.state = CLOSED
        # The server hangs up first; one that does not is told apart by `droppedByMe`.
        self.after(2, self.drop)

    def drop(self):
        self.droppedByMe = True
        self.writer.transport.abort()

    def after(self, seconds, function):
        self.timers.append(asyncio.get_running_loop().call_later(seconds, function))

    def put(self, data, chop=None):
        self.outbox.put_nowait((data, chop))

    # What the cases call.

    def sendFrame(self, opcode, payload="", fin=True, rsv=0, mask=None, payload_len=None, chopsize=None, sync=False):
        payload = payload if isinstance(payload, bytes) else payload.encode("latin-1")
        if payload_len is not None:
            payload = (payload * (payload_len // len(payload) + 1))[:payload_len] if payload else b""
        self.txFrameStats[opcode] = self.txFrameStats.get(opcode, 0) + 1
        wire = frame(opcode, payload, fin=fin, rsv=rsv)
        # `sync` asks for a segment of its own.
        self.put(wire, chopsize or (len(wire) if sync else None))

    def sendMessage(self, payload, isBinary=False, fragmentSize=None):
        if self.state != OPEN:
            return
        rsv = 0
        if self._perMessageCompress:
            payload, rsv = deflate.deflate(payload), 4
        size = fragmentSize or self.autoFragmentSize or len(payload) or 1
        # In a fragmented message the last frame has what is left, and is there even for nothing.
        pieces = [payload[at : at + size] for at in range(0, len(payload), size)] or [payload]
        opcodes = itertools.chain([2 if isBinary else 1], itertools.repeat(0))
        for number, (opcode, piece) in enumerate(zip(opcodes, pieces), 1):
            self.sendFrame(opcode, piece, fin=number == len(pieces), rsv=rsv if number == 1 else 0)

    def beginMessage(self, isBinary=False):
        self.opcode = 2 if isBinary else 1

    def beginMessageFrame(self, length):
        # The key is zero, so that the payload may follow as it is.
        self.put(bytes([self.opcode, 0x80 | length]) + b"\0\0\0\0")
        self.opcode = 0

    def sendMessageFrameData(self, payload, sync=False):
        self.put(payload.encode("latin-1"))

    def endMessage(self):
        self.sendFrame(0)

    def sendClose(self, code=None, reason=None):
        self.sendCloseFrame(code, reason)

    def sendCloseFrame(self, code=None, reasonUtf8=None, isReply=False):
        if self.state != OPEN:
            return
        payload = code.to_bytes(2, "big") if code is not None else b""
        self.put(frame(8, payload + (reasonUtf8 or "").encode("latin-1")))
        self.state, self.closedByMe, self.localCloseCode, self.localCloseReason = CLOSING, True, code, reasonUtf8

    def enableWirelog(self, _):
        pass

    def continueLater(self, delay, function, tag=None):
        self.after(delay, lambda: self.state != CLOSED and function())

    def closeAfter(self, delay):
        self.continueLater(delay, self.sendClose)

    def killAfter(self, delay):
        def kill():
            self.failedByMe = True
            self.drop()

        self.continueLater(delay, kill)


async def judge(case, url):
    """What is wrong, or None."""
    peer = Peer(case, url)
    await asyncio.wait_for(peer.run(), 300)
    found = peer.case
    if peer.fault:
        return peer.fault
    if peer._perMessageCompress and found.LEN >= 1024 and found.TESTDATA["file"] == "data1.json" and not peer.compressed:
        return "the server compressed nothing"
    if found.behavior not in ("OK", "INFORMATIONAL"):
        return f"{found.behavior}: {found.result}"
    if found.behaviorClose not in ("OK", "INFORMATIONAL"):
        return f"closing {found.behaviorClose}: {found.resultClose} (code {peer.remoteCloseCode})"
    return None


async def main(options):
    cases = [case for case in Loader().cases() if not options.only or f"{case_id(case)}.".startswith(f"{options.only}.")]
    for case in cases:
        if hasattr(case, "COUNT") and hasattr(case, "CLIENT_OFFERS"):
            case.COUNT = options.compressed_messages
    heavy = [case for case in cases if case_id(case).startswith("9.")]
    light = [case for case in cases if case not in heavy]
    # The light ones mostly wait; the heavy ones would make them wait longer than they allow.
    places = asyncio.Semaphore(16)
    failures = {}

    async def run(case):
        async with places:
            try:
                failures[case] = await judge(case, options.url)
            except Exception as error:
                failures[case] = f"{type(error).__name__}: {error}"
            print(f"FAIL  {case_id(case)}: {failures[case]}" if failures[case] else f"ok    {case_id(case)}", flush=True)

    await asyncio.gather(*map(run, light))
    for case in [] if options.quick else heavy:
        await run(case)
    failed = sum(failure is not None for failure in failures.values())
    finish(len(failures) - failed, failed, len(heavy) if options.quick else 0)


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--url", required=True)
    arguments.add_argument("--only", help="run a section or a case, such as 6 or 6.4.1")
    arguments.add_argument("--quick", action="store_true", help="leave out section 9, which sends big messages")
    arguments.add_argument("--compressed-messages", type=int, default=10, help="of each case of sections 12 and 13")
    asyncio.run(main(arguments.parse_args()))
