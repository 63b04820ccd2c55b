"""Somebody who behaves well while others do not: a writer and a reader who tell whether the node still keeps its promises to them."""

import os
import threading
import time
import urllib.error
import urllib.request

from session import Session
from suite import equal, require

PUBLISH_EVERY_SECONDS = 0.01
SAMPLE_EVERY_SECONDS = 0.05
CATCH_UP_SECONDS = 5
# Debug builds on busy machines are slow; one that keeps everybody waiting for a flood is slower.
SLOWEST_SECONDS = 5
LAST = b"the last message"


class Witness:
    """Publishes steadily through one session and reads through another, each in a thread, until `stop`."""

    def __init__(self, url, token, channel):
        self.writer, self.reader = Session.open(url, token), Session.open(url, token)
        self.channel = self.writer.subscribe(channel, attach=None)["channel"]
        self.reader.subscribe(channel)
        self.stopping = threading.Event()
        self.sent, self.places, self.heard = [], [], []
        self.slowest = {"acknowledged": 0.0, "delivered": 0.0}
        self.fault = None
        self.threads = [threading.Thread(target=self.guard, args=(run,), daemon=True) for run in (self.write, self.read)]
        for thread in self.threads:
            thread.start()

    def guard(self, run):
        try:
            run()
        except Exception as fault:
            self.fault = self.fault or f"{run.__name__}: {type(fault).__name__}: {fault}"

    def write(self):
        stopped = False
        while not stopped:
            stopped = self.stopping.wait(PUBLISH_EVERY_SECONDS)
            body = LAST if stopped else f"message {self.writer.sequence + 1} ✓".encode()
            began = time.monotonic()
            self.sent.append((began, body))
            published = self.writer.publish(self.channel, body)
            equal(published["duplicate"], False, "duplicate")
            self.places.append(published["position"])
            self.slowest["acknowledged"] = max(self.slowest["acknowledged"], time.monotonic() - began)

    def read(self):
        body = None
        while body != LAST:
            message = self.reader.message()
            # What others publish is none of its business.
            if message["producer"] == self.writer.producer:
                body = message["body"]
                self.heard.append((message["sequence"], message["position"], body))
                began, _ = self.sent[message["sequence"] - 1]
                self.slowest["delivered"] = max(self.slowest["delivered"], time.monotonic() - began)

    def stop(self):
        """How many messages there were; fails unless each came once, in order, at the place that was acknowledged, in time."""
        self.stopping.set()
        for thread in self.threads:
            thread.join(CATCH_UP_SECONDS)
        require(self.fault is None, self.fault)
        require(not any(thread.is_alive() for thread in self.threads), f"{len(self.heard)} of {len(self.sent)} came")
        expect = [(n, place, body) for n, (place, (_, body)) in enumerate(zip(self.places, self.sent), 1)]
        equal(len(self.heard), len(self.sent), "number of messages")
        equal(self.heard, expect, "messages")
        for what, seconds in self.slowest.items():
            require(seconds < SLOWEST_SECONDS, f"a message was {what} after {seconds:.1f} s")
        for session in (self.writer, self.reader):
            session.client.close()
        return len(self.heard)


class Process:
    """Samples how much memory a process has in use, in MiB."""

    def __init__(self, pid):
        self.pid = pid
        self.before = self.peak = self.resident()
        self.stopping = threading.Event()
        self.thread = threading.Thread(target=self.sample, daemon=True)
        self.thread.start()

    def resident(self):
        with open(f"/proc/{self.pid}/statm") as statm:
            return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / (1 << 20)

    def sample(self):
        while not self.stopping.wait(SAMPLE_EVERY_SECONDS):
            self.peak = max(self.peak, self.resident())

    def stop(self):
        self.stopping.set()
        self.thread.join()
        return self.resident()


def get(url):
    """Status and text of an answer."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def metric(admin, name):
    """A metric of the node, summed over its shards."""
    _, text = get(f"{admin}/metrics")
    rows = [line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#")]
    values = [float(value) for key, value in rows if key.split("{")[0] == name]
    require(values, f"no metric {name}")
    return sum(values)
