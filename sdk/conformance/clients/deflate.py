"""permessage-deflate (RFC 7692) on Python's zlib, and what Autobahn's cases on compression ask of the library they were written for."""

import types
import zlib

TAIL = b"\x00\x00\xff\xff"


def deflate(payload, window_bits=15):
    """The payload of a compressed message, of a sender that takes over no context."""
    compressor = zlib.compressobj(wbits=-window_bits)
    data = compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH)
    return data[: -len(TAIL)]


def inflate(payload, window_bits=15):
    """What it says, to a receiver that keeps no more than its window."""
    decompressor = zlib.decompressobj(wbits=-window_bits)
    return decompressor.decompress(payload + TAIL)


class Agreement:
    """What a server answered to an offer."""

    def __init__(self, answer):
        name, *parameters = [piece.strip() for piece in answer.split(";")]
        pairs = [tuple(parameter.split("=")) for parameter in parameters]
        self.parameters = {pair[0]: pair[1] if len(pair) > 1 else None for pair in pairs}
        if name != "permessage-deflate" or len(self.parameters) != len(pairs):
            raise ValueError(f"the server answered {answer!r}")
        # Ours need no context of theirs, and keep none.
        for needed in ["server_no_context_takeover", "client_no_context_takeover"]:
            if needed not in self.parameters:
                raise ValueError(f"the server answered {answer!r}, without {needed}")
        self.window_bits = int(self.parameters.get("server_max_window_bits") or 15)


class Offer:
    """Of Autobahn's library."""

    def __init__(self, requestNoContextTakeover=False, requestMaxWindowBits=0):
        self.requestNoContextTakeover, self.requestMaxWindowBits = requestNoContextTakeover, requestMaxWindowBits

    def text(self):
        text = "permessage-deflate; client_no_context_takeover; client_max_window_bits"
        if self.requestNoContextTakeover:
            text += "; server_no_context_takeover"
        if self.requestMaxWindowBits:
            text += f"; server_max_window_bits={self.requestMaxWindowBits}"
        return text


def stand_in():
    """For `from autobahn.websocket.compress import *`. Accepting is the other side's."""
    return types.SimpleNamespace(
        __all__=["PerMessageDeflateOffer", "PerMessageDeflateResponse", "PerMessageDeflateResponseAccept"],
        PerMessageDeflateOffer=Offer,
        PerMessageDeflateResponse=Agreement,
        PerMessageDeflateResponseAccept=lambda agreement: agreement,
    )
