// How far a channel is read: marks on their way, and what counts as unread.

import assert from "node:assert/strict";
import { test } from "node:test";

import { Reads } from "../src/engine/reads.js";

const at = (epoch: number, offset: number) => ({ epoch, offset });

const count = (reads: Reads) => reads.unread?.count;

function readsAt(head: number, read: number): Reads {
  const reads = new Reads();
  reads.subscribed(at(1, head));
  reads.moved(at(1, read));
  return reads;
}

test("a count is known once the node has told both", () => {
  const reads = new Reads();
  reads.subscribed(at(1, 9));
  assert.equal(count(reads), undefined);
  reads.moved(at(1, 0));
  assert.equal(count(reads), 9, "nothing was read yet");
  for (const offset of [10, 10, 0]) reads.seen(at(1, offset));
  assert.equal(count(reads), 10);
  assert.deepEqual([reads.tell(), reads.tell()], [true, false], "told once");
  reads.subscribed(undefined);
  assert.equal(count(reads), undefined, "it keeps nothing now");
});

test("the furthest mark counts at once and goes alone", () => {
  const reads = readsAt(9, 2);
  for (const offset of [4, 6, 5, 1, 0]) reads.mark(at(1, offset));
  assert.deepEqual([count(reads), reads.due(0)], [3, at(1, 6)]);
  reads.asked(0, at(1, 6));
  reads.mark(at(1, 8));
  assert.deepEqual([reads.due(0), reads.isPending], [undefined, true], "one at a time");
  reads.answered(at(1, 6));
  assert.deepEqual([count(reads), reads.due(0)], [1, at(1, 8)]);
  reads.asked(0, at(1, 8));
  reads.disconnected();
  assert.deepEqual(reads.due(0), at(1, 8), "it is sent again on the next connection");
  reads.moved(at(1, 9));
  assert.deepEqual([reads.isPending, count(reads)], [false, 0], "another device was further");
  reads.moved(at(1, 7));
  assert.equal(count(reads), 0, "never back");
});

test("a mark ahead takes no other with it", () => {
  const check = (marks: readonly number[], expect: readonly number[]) => {
    const reads = readsAt(9, 2);
    for (const mark of marks) reads.mark(at(1, mark));
    const asked: number[] = [];
    for (let mark = reads.due(0); mark !== undefined; mark = reads.due(0)) {
      asked.push(mark.offset);
      reads.asked(0, mark);
      if (mark.offset > 9) reads.refused(undefined);
      else reads.answered(mark);
    }
    assert.deepEqual([asked, reads.isPending], [expect, false], `${marks}`);
  };
  check([5, 50], [50, 5]);
  check([50, 5], [50, 5]);
  check([5, 50, 60], [60, 5]);
  check([50, 60, 5, 4, 7, 7], [60, 7]);
  check([60, 5, 4, 7, 50], [60, 7]);
  check([5, 7], [7]);
  // One under way that is refused beside one that waits.
  const reads = readsAt(9, 2);
  reads.mark(at(1, 20));
  reads.asked(0, at(1, 20));
  reads.mark(at(1, 30));
  reads.refused(undefined);
  assert.deepEqual(reads.due(0), at(1, 30));
  reads.asked(0, at(1, 30));
  reads.refused(undefined);
  assert.deepEqual([reads.isPending, count(reads)], [false, 7], "what the node says is what counts");
});

test("a node that is busy is left alone however much is read", () => {
  const reads = readsAt(9, 2);
  reads.mark(at(1, 5));
  reads.asked(0, at(1, 5));
  reads.refused(1_000);
  reads.mark(at(1, 6));
  assert.deepEqual([reads.due(0), reads.retryAt, reads.due(1_000)], [undefined, 1_000, at(1, 6)]);
});

test("what was lost with an epoch is unread again", () => {
  const reads = readsAt(10, 10);
  reads.seen(at(2, 8));
  assert.deepEqual(reads.unread, { count: 1, read: at(2, 7), newest: at(2, 8) });
  reads.mark(at(2, 8));
  assert.equal(count(reads), 0);
  reads.mark(at(3, 2));
  assert.equal(count(reads), 0, "of an epoch of which no message is known yet");
  // The node may know less than before: what it says on a new connection counts.
  reads.giveUp();
  reads.subscribed(at(2, 9));
  reads.moved(at(2, 3));
  assert.equal(count(reads), 6);
});
