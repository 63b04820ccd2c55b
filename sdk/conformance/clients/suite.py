"""Runs named cases one after the other, prints a line for each and the counts last, and tells by its exit code."""

import sys
import time
import traceback


class Failure(Exception):
    """What the server did is not what the protocol asks."""


class Skipped(Exception):
    """The case needs something that this run was not given."""


def require(condition, message):
    if not condition:
        raise Failure(message)


def equal(found, expect, what="value"):
    if found != expect:
        raise Failure(f"{what}: found {shorten(found)}, expected {shorten(expect)}")


def shorten(value):
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}… ({len(text)} characters)"


class Suite:
    def __init__(self):
        self.cases = []

    def case(self, name, *arguments):
        """Adds the decorated function, called with `arguments`."""

        def add(function):
            self.cases.append((name, lambda: function(*arguments)))
            return function

        return add

    def each(self, name, rows):
        """Adds the decorated function once for each row; the name may hold `{0}`, `{1}`, … of the row."""

        def add(function):
            for row in rows:
                self.case(name.format(*row), *row)(function)
            return function

        return add

    def run(self, only=None):
        passed, failed, skipped = 0, 0, 0
        for name, function in self.cases:
            if only and only not in name:
                continue
            start = time.monotonic()
            try:
                function()
            except Skipped as reason:
                skipped += 1
                print(f"skip  {name}: {reason}", flush=True)
            except Failure as failure:
                failed += 1
                print(f"FAIL  {name}: {failure}", flush=True)
            except Exception as error:
                failed += 1
                print(f"FAIL  {name}: {type(error).__name__}: {error}", flush=True)
                traceback.print_exc()
            else:
                passed += 1
                print(f"ok    {name} ({time.monotonic() - start:.2f} s)", flush=True)
        finish(passed, failed, skipped)


def finish(passed, failed, skipped=0):
    """The line that callers read, and the exit code. A run without a single case is a failed one."""
    print(f"{passed} passed, {failed} failed" + (f", {skipped} skipped" if skipped else ""), flush=True)
    sys.exit(1 if failed or not passed else 0)
