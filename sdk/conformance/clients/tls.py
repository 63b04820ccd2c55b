"""Judges a data node's TLS with two implementations that nobody here wrote: the `openssl` tool and Python's `ssl`.

python3 tls.py --url wss://127.0.0.1:PORT --ca FILE [--only TEXT]

The rest of what a node does is judged over TLS by `node.py`, with SSL_CERT_FILE set to the same file.
"""

import argparse
import os
import socket
import ssl
import subprocess
import tempfile
from urllib.parse import urlsplit

from suite import Suite, equal, require

TIMEOUT_SECONDS = 10
REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"

arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
arguments.add_argument("--url", required=True, type=urlsplit)
arguments.add_argument("--ca", required=True)
arguments.add_argument("--only", help="run the cases that have this in their name")
options = arguments.parse_args()
HOST, PORT = options.url.hostname, options.url.port
suite = Suite()


def openssl(*more, said=b""):
    """What `openssl s_client` says of a connection, and whether it was content."""
    command = ["openssl", "s_client", "-connect", f"{HOST}:{PORT}", "-CAfile", options.ca, "-verify_return_error"]
    done = subprocess.run([*command, *more], input=said, capture_output=True, timeout=TIMEOUT_SECONDS)
    return (done.stdout + done.stderr).decode(errors="replace"), done.returncode == 0


def dial():
    return socket.create_connection((HOST, PORT), timeout=TIMEOUT_SECONDS)


def sealed(context=None, **more):
    context = context or ssl.create_default_context(cafile=options.ca)
    # Without this a connection that is cut looks like one that is ended.
    return context.wrap_socket(dial(), server_hostname=HOST, suppress_ragged_eofs=False, **more)


def to_the_end(connection):
    data = b""
    while part := connection.recv(65536):
        data += part
    return data


@suite.each("openssl: {0} with {1}", [("-tls1_3", "TLSv1.3"), ("-tls1_2", "TLSv1.2")])
def _(flag, version):
    text, content = openssl(flag, "-alpn", "h2,http/1.1")
    require(content, text)
    require("Verify return code: 0 (ok)" in text, text)
    require(f"New, {version}" in text or f"Protocol  : {version}" in text, text)
    require("ALPN protocol: http/1.1" in text, text)


@suite.each(
    "openssl: {0} is refused",
    [
        ("TLS 1.1", ["-tls1_1"]),
        ("another protocol", ["-alpn", "h2"]),
        ("a cipher of old", ["-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-SHA"]),
    ],
)
def _(_, flags):
    text, content = openssl(*flags)
    require(not content, text)


@suite.each("openssl: a session resumes with {0}", [("-tls1_3",), ("-tls1_2",)])
def _(flag):
    with tempfile.TemporaryDirectory() as folder:
        ticket = os.path.join(folder, "session.pem")
        # A ticket of TLS 1.3 comes after the handshake: the answer to a request is behind it.
        first, content = openssl(flag, "-ign_eof", "-sess_out", ticket, said=REQUEST)
        require(content and "404" in first, first)
        second, content = openssl(flag, "-sess_in", ticket)
        require(content and "Reused, " in second, second)


@suite.case("openssl: a key update in the middle of a connection")
def _():
    command = ["openssl", "s_client", "-connect", f"{HOST}:{PORT}", "-CAfile", options.ca, "-tls1_3"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with subprocess.Popen(command, **pipes) as client:
        # Both directions: ours is asked for, and must come before what is sealed next.
        client.stdin.write(b"K\n")
        client.stdin.flush()
        while b"KEYUPDATE" not in (line := client.stdout.readline()):
            require(line, "the connection ended before its keys were new")
        client.stdin.write(REQUEST)
        client.stdin.flush()
        text = client.stdout.read().decode(errors="replace")
        require("404" in text, text)


@suite.case("ssl: an answer comes whole, and its end is told")
def _():
    with sealed() as connection:
        equal(connection.version(), "TLSv1.3", "version")
        connection.sendall(REQUEST)
        answer = to_the_end(connection)
        require(answer.startswith(b"HTTP/1.1 404 "), repr(answer))


@suite.case("ssl: a certificate of nobody known is refused by the client, and the node goes on")
def _():
    try:
        sealed(ssl.create_default_context(cafile=None)).close()
    except ssl.SSLCertVerificationError:
        pass
    else:
        require(False, "a certificate that leads nowhere was taken")
    sealed().close()


@suite.case("ssl: a request in pieces, each in a record")
def _():
    with sealed() as connection:
        for byte in REQUEST:
            connection.sendall(bytes([byte]))
        require(to_the_end(connection).startswith(b"HTTP/1.1 404 "), "another answer")


@suite.case("clear HTTP is told where it is")
def _():
    with dial() as connection:
        connection.sendall(REQUEST)
        answer = to_the_end(connection)
        require(answer.startswith(b"HTTP/1.1 400 ") and b"wss://" in answer, repr(answer))


@suite.case("noise gets nothing but an end")
def _():
    with dial() as connection:
        connection.sendall(b"\x80" * 100)
        equal(to_the_end(connection), b"")


suite.run(options.only)
