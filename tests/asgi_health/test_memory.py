"""A shared value: torn writes, killed writers, no room; a reader always gets a whole one."""

import json
import mmap
import random
import signal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from process_side import Say, done_by_a_child, forked

from asgi_health.fleet.memory import SharedRecord

SIZE = 512
ROOM = SIZE // 2 - 12
"""Bytes of JSON that a slot takes after its head."""


class Memory:
    """Three records in one mapping; the middle one is looked at."""

    def __init__(self) -> None:
        self.map = mmap.mmap(-1, 4096)
        self.before, self.record, self.after = (
            SharedRecord(self.map, offset=offset, size_bytes=SIZE) for offset in (0, SIZE, 2 * SIZE)
        )

    @property
    def slots(self) -> list[bytes]:
        return [bytes(self.map[start : start + SIZE // 2]) for start in (SIZE, SIZE + SIZE // 2)]


@pytest.fixture
def memory() -> Any:
    made = Memory()
    yield made
    made.map.close()


def test_new_memory_has_no_value(memory: Memory) -> None:
    assert memory.record.read() is None


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=5,
)


@given(written=st.lists(VALUES, max_size=6))
def test_the_last_value_that_had_room_is_what_is_read(written: list[Any]) -> None:
    memory = Memory()
    expected = None
    for value in written:
        fits = len(json.dumps(value, separators=(",", ":"))) <= ROOM
        assert memory.record.write(value) is fits
        expected = value if fits else expected
        assert memory.record.read() == expected
    assert memory.before.read() is memory.after.read() is None
    memory.map.close()


@pytest.mark.parametrize(("length", "fits"), [(ROOM - 2, True), (ROOM - 1, False), (5000, False)])
def test_a_value_without_room_is_refused_and_the_old_one_stays(
    memory: Memory,
    length: int,
    fits: bool,  # noqa: FBT001
) -> None:
    for neighbor in (memory.before, memory.after):
        neighbor.write("neighbor")
    memory.record.write("old")
    assert memory.record.write("x" * length) is fits
    assert memory.record.read() == ("x" * length if fits else "old")
    assert memory.record.write("new")
    assert memory.record.read() == "new"
    assert memory.before.read() == memory.after.read() == "neighbor"


def test_characters_beyond_ascii_need_the_room_of_their_escapes(memory: Memory) -> None:
    assert not memory.record.write("\u00e9" * (ROOM // 4))
    assert memory.record.write("\u00e9" * (ROOM // 8))
    assert memory.record.read() == "\u00e9" * (ROOM // 8)


@pytest.mark.parametrize("seed", range(60))
def test_a_torn_write_leaves_the_last_whole_value(memory: Memory, seed: int) -> None:
    chance = random.Random(seed)
    count = chance.randrange(2, 6)
    for number in range(count):
        memory.record.write({"number": number})
    newest = SIZE + (count - 1) % 2 * (SIZE // 2)
    for _ in range(chance.randrange(1, 8)):
        position = newest + chance.randrange(24)
        memory.map[position] = (memory.map[position] + chance.randrange(1, 256)) % 256
    assert memory.record.read() in ({"number": count - 2}, {"number": count - 1})
    assert memory.record.write("next")
    assert memory.record.read() == "next"


def test_a_write_cut_off_at_any_byte_leaves_the_value_before_it(memory: Memory) -> None:
    memory.record.write("first")
    memory.record.write("second")
    before = memory.slots[0]
    memory.record.write("third")
    after = memory.slots[0]
    assert after != before
    length = max(i for i in range(SIZE // 2) if after[i] != before[i]) + 1
    for cut in range(length):
        memory.map[SIZE : SIZE + SIZE // 2] = after[:cut] + before[cut:]
        assert memory.record.read() == "second"
    memory.map[SIZE : SIZE + SIZE // 2] = after
    assert memory.record.read() == "third"


def test_two_broken_slots_have_no_value_and_can_be_written(memory: Memory) -> None:
    memory.record.write("first")
    memory.record.write("second")
    memory.map[SIZE : 2 * SIZE] = random.Random(1).randbytes(SIZE)
    assert memory.record.read() is None
    assert memory.record.write("third")
    assert memory.record.read() == "third"


@given(garbage=st.binary(min_size=SIZE, max_size=SIZE))
def test_no_garbage_whatever_makes_a_reader_raise(garbage: bytes) -> None:
    memory = Memory()
    memory.map[SIZE : 2 * SIZE] = garbage
    assert memory.record.read() is None
    memory.map.close()


def test_what_a_child_writes_its_parent_reads(memory: Memory) -> None:
    memory.record.write("parent")

    def work(say: Say) -> str:
        seen = memory.record.read()
        memory.record.write({"from": "child"})
        return str(seen)

    assert done_by_a_child(work) == "parent"
    assert memory.record.read() == {"from": "child"}


@pytest.mark.parametrize("kill", range(25))
def test_a_writer_killed_in_the_middle_of_its_writes_leaves_a_whole_value(
    memory: Memory, kill: int
) -> None:
    def consistent(value: Any) -> bool:
        return value is None or value["a"] == value["b"][-1] == len(value["b"])

    def write(say: Say) -> None:
        for number in range(1, 1 << 30):
            length = number % 40 + 1
            memory.record.write({"a": length, "b": list(range(1, length + 1))})
            if number == 3:
                say("writing")

    with forked(write) as child:
        child.hears()
        assert all(consistent(memory.record.read()) for _ in range(kill * 20))
        child.signal(signal.SIGKILL)
        assert child.reap() == -signal.SIGKILL
    value = memory.record.read()
    assert value is not None
    assert consistent(value)
    assert memory.record.write("next")
    assert memory.record.read() == "next"
