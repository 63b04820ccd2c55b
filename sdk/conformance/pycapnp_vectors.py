#!/usr/bin/env python3
"""Holds the golden vectors against pycapnp, a Cap'n Proto that nobody here wrote.

For each frame in vectors/{client,server}.json: pycapnp decodes the bytes with the schema, the meaning must be the one in the
file; pycapnp then encodes the meaning from scratch, and those bytes must decode to it again. `--write` keeps what pycapnp
encoded in vectors/foreign.json, which the Rust tests decode. Vectors that are refused for a value (not for their structure)
must be readable: the fault is where their name says.

    python3 -m venv venv && venv/bin/pip install pycapnp
    venv/bin/python sdk/conformance/pycapnp_vectors.py
"""

import argparse
import json
import pathlib
import sys

import capnp

HERE = pathlib.Path(__file__).resolve().parent
SCHEMA = HERE.parent.parent / "protocol" / "schema" / "client.capnp"

BIG = {"int64", "uint64"}


def meaning_of(reader):
    """What a struct means, in the words of vectors/README.md, walked by the schema."""
    meaning = {}
    union = reader.schema.union_fields
    for name, field in reader.schema.fields.items():
        if name in union and reader.which() != name:
            continue
        meaning[name] = value_of(field, getattr(reader, name))
    return meaning


def value_of(field, value):
    proto = field.proto
    if proto.which() == "group":
        return meaning_of(value)
    return typed(proto.slot.type, value)


def typed(kind, value):
    name = str(kind.which())
    if name == "void":
        return None
    if name in BIG:
        return str(value)
    if name == "data":
        return bytes(value).hex()
    if name == "enum":
        return str(value)
    if name == "struct":
        return meaning_of(value)
    if name == "list":
        return [typed(kind.list.elementType, item) for item in value]
    return value


def fill(builder, meaning):
    """Sets every field of a struct from its meaning."""
    for name, value in meaning.items():
        field = builder.schema.fields[name]
        proto = field.proto
        if proto.which() == "group":
            fill(builder.init(name), value)
            continue
        kind = proto.slot.type
        what = str(kind.which())
        if what == "struct":
            fill(builder.init(name), value)
        elif what == "list":
            items = builder.init(name, len(value))
            for index, item in enumerate(value):
                if str(kind.list.elementType.which()) == "struct":
                    fill(items[index], item)
                else:
                    items[index] = item
        elif what in BIG:
            setattr(builder, name, int(value))
        elif what == "data":
            setattr(builder, name, bytes.fromhex(value))
        else:
            setattr(builder, name, value)


def decode(struct, data):
    with struct.from_bytes(data) as reader:
        return meaning_of(reader)


def encode(struct, meaning):
    builder = struct.new_message()
    fill(builder, meaning)
    return builder.to_bytes()


class Tally:
    def __init__(self):
        self.passed = 0
        self.failed = 0

    def check(self, name, found, expect):
        if found == expect:
            self.passed += 1
        else:
            self.failed += 1
            print(f"FAILED {name}\n  found  {found}\n  expect {expect}")


def unknown_request(struct, data):
    """The request of a frame that says something for a later version; fails if pycapnp knows all of it."""
    with struct.from_bytes(data) as reader:
        request = reader.request
        try:
            meaning_of(reader)
        except (KeyError, RuntimeError, capnp.KjException):
            return request
        return "nothing unknown in it"


def readable(struct, data):
    try:
        decode(struct, data)
    except capnp.KjException as error:
        return str(error).splitlines()[0]
    return "readable"


def run(tally, schema, path):
    file = json.loads(path.read_text())
    struct = getattr(schema, file["root"])
    foreign = {}
    counts = {"decoded": 0, "encoded": 0, "unknown": 0, "readable": 0}
    for vector in file["frames"]:
        name, data, meaning = f"{path.name} {vector['name']}", bytes.fromhex(vector["hex"]), vector["meaning"]
        if "unknown" in meaning:
            tally.check(name, unknown_request(struct, data), meaning["request"])
            counts["unknown"] += 1
            continue
        tally.check(f"{name}: decode", decode(struct, data), meaning)
        made = encode(struct, meaning)
        tally.check(f"{name}: one segment", made[:4], bytes(4))
        tally.check(f"{name}: encode", decode(struct, made), meaning)
        foreign[vector["name"]] = made.hex()
        counts["decoded"] += 1
        counts["encoded"] += 1
    for vector in file["refused"]:
        if vector["error"] in ("invalid", "too-large"):
            tally.check(f"{path.name} {vector['name']}", readable(struct, bytes.fromhex(vector["hex"])), "readable")
            counts["readable"] += 1
    print(f"{path.name}: " + ", ".join(f"{number} {what}" for what, number in counts.items()))
    return {file["root"]: foreign}


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--write", action="store_true", help="keep what pycapnp encodes in vectors/foreign.json")
    write = arguments.parse_args().write
    capnp.remove_import_hook()
    schema = capnp.load(str(SCHEMA))
    tally = Tally()
    foreign = {}
    for name in ("client.json", "server.json"):
        foreign.update(run(tally, schema, HERE / "vectors" / name))
    if write:
        (HERE / "vectors" / "foreign.json").write_text(json.dumps(foreign, indent=1) + "\n")
    print(f"{tally.passed} passed, {tally.failed} failed")
    sys.exit(tally.failed > 0)


if __name__ == "__main__":
    main()
