"""Judges the requests of webhooks: the reference library of Standard Webhooks verifies them, and so does what docs/webhooks.md tells its readers to write.

python3 webhooks.py --api http://127.0.0.1:PORT --api-key K [--document ../../../docs/webhooks.md] [--only TEXT]
"""

import argparse
import json
import re
import threading
import urllib.request
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from standardwebhooks import Webhook, WebhookVerificationError

from suite import Suite, equal, require

DOCUMENT = Path(__file__).parents[3] / "docs" / "webhooks.md"
PATIENCE_S = 20

arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
arguments.add_argument("--api", required=True)
arguments.add_argument("--api-key", required=True)
arguments.add_argument("--document", type=Path, default=DOCUMENT)
arguments.add_argument("--only", help="run the cases that have this in their name")
options = arguments.parse_args()
suite = Suite()


def call(method, path, body=None):
    request = urllib.request.Request(options.api + path, method=method)
    request.add_header("authorization", f"Bearer {options.api_key}")
    if body is not None:
        request.add_header("content-type", "application/json")
        request.data = json.dumps(body).encode()
    with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
        text = answer.read()
        return json.loads(text) if text else None


class Endpoint:
    """Takes every request and keeps it as it came."""

    def __init__(self, events, **more):
        self.requests = []
        self.came = threading.Condition()
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"]))
                with endpoint.came:
                    endpoint.requests.append(({name.lower(): value for name, value in self.headers.items()}, body))
                    endpoint.came.notify_all()
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{self.server.server_address[1]}/hook"
        made = call("POST", "/v1/webhooks", {"url": url, "events": events, **more})
        self.id, self.secret = made["id"], made["secret"]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        call("DELETE", f"/v1/webhooks/{self.id}")
        self.server.shutdown()
        self.server.server_close()

    def take(self, count):
        """The first requests, as soon as so many are there."""
        with self.came:
            require(self.came.wait_for(lambda: len(self.requests) >= count, PATIENCE_S), f"{count} requests never came")
            return list(self.requests[:count])


def refused(verify, error):
    try:
        verify()
    except error:
        return
    require(False, "it was taken for good")


def documented():
    """What the document tells readers to write, each block as a module of its own."""
    blocks = re.findall(r"```python\n(.*?)```", options.document.read_text(), re.DOTALL)
    require(len(blocks) >= 2, "the document has its blocks")
    for block in blocks:
        scope = {}
        exec(compile(block, str(options.document), "exec"), scope)
        yield scope["verify"]


ALL = ["channel.created", "channel.updated", "channel.archived", "member.added", "member.updated", "member.removed", "user.created", "user.updated", "user.deleted", "message.sent"]


@suite.case("every event verifies by the reference library, and is of the shape that the specification recommends")
def _():
    with Endpoint(ALL, channel_prefix="hooks-") as endpoint:
        call("POST", "/v1/channels", {"name": "hooks-1", "kind": "group", "members": [{"user": "hook-ann", "role": "owner"}]})
        call("POST", "/v1/channels/hooks-1/members", {"user": "hook-bob"})
        call("PATCH", "/v1/channels/hooks-1/members/hook-bob", {"role": "moderator"})
        call("POST", "/v1/channels/hooks-1/messages", {"user": "hook-bob", "text": "größe 😀"})
        call("PATCH", "/v1/channels/hooks-1", {"display_name": "Hooks"})
        call("DELETE", "/v1/channels/hooks-1/members/hook-bob")
        call("DELETE", "/v1/channels/hooks-1")
        call("PUT", "/v1/users/hook-ann", {"display_name": "Ann"})
        for user in ["hook-ann", "hook-bob"]:
            call("DELETE", f"/v1/users/{user}")
        library = Webhook(endpoint.secret)
        # Both users begin, and end; ann leaves the archived channel on her way.
        seen = {}
        for headers, body in endpoint.take(13):
            event = library.verify(body, headers)
            seen.setdefault(event["type"], []).append(event["data"])
            require(datetime.fromisoformat(event["timestamp"]).tzinfo is not None, "the time has a zone")
            equal(set(event), {"type", "timestamp", "data"}, "members")
        equal(set(seen), set(ALL), "events")
        equal(seen["message.sent"][0]["message"]["text"], "größe 😀", "text")
        equal(seen["message.sent"][0]["channel"]["name"], "hooks-1", "channel")


@suite.case("what was changed on the way, or signed by somebody else, is refused by the reference library")
def _():
    with Endpoint(["user.created"]) as endpoint:
        equal(call("POST", f"/v1/webhooks/{endpoint.id}/test", {})["result"], "delivered", "result")
        [(headers, body)] = endpoint.take(1)
        equal(Webhook(endpoint.secret).verify(body, headers)["type"], "webhook.test", "type")
        other = Webhook("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
        refused(lambda: other.verify(body, headers), WebhookVerificationError)
        refused(lambda: Webhook(endpoint.secret).verify(body + b" ", headers), WebhookVerificationError)
        for name, value in [("webhook-id", "evt_other"), ("webhook-timestamp", str(int(headers["webhook-timestamp"]) - 1))]:
            refused(lambda: Webhook(endpoint.secret).verify(body, {**headers, name: value}), WebhookVerificationError)


@suite.case("while a secret is replaced the reference library takes both")
def _():
    with Endpoint(["user.created"]) as endpoint:
        rotated = call("POST", f"/v1/webhooks/{endpoint.id}/rotate-secret", {"overlap_seconds": 60})
        call("POST", f"/v1/webhooks/{endpoint.id}/test", {})
        [(headers, body)] = endpoint.take(1)
        for secret in [endpoint.secret, rotated["secret"]]:
            Webhook(secret).verify(body, headers)


@suite.case("what the document tells readers to write verifies, and refuses what is wrong")
def _():
    with Endpoint(["user.created"]) as endpoint:
        call("POST", f"/v1/webhooks/{endpoint.id}/rotate-secret", {"overlap_seconds": 60})
        call("POST", f"/v1/webhooks/{endpoint.id}/test", {})
        [(headers, body)] = endpoint.take(1)
        for verify in documented():
            equal(verify(endpoint.secret, body, headers)["type"], "webhook.test", "type")
            refused(lambda: verify(endpoint.secret, body + b" ", headers), Exception)
            refused(lambda: verify("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", body, headers), Exception)
            late = {**headers, "webhook-timestamp": str(int(headers["webhook-timestamp"]) - 600)}
            refused(lambda: verify(endpoint.secret, body, late), Exception)


suite.run(options.only)
