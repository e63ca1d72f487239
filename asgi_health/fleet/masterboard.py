"""What the master of an instance and its workers tell each other; made once, before any fork."""

import mmap
from enum import IntEnum
from typing import Any

from asgi_health.fleet.config import FleetConfig
from asgi_health.fleet.memory import SharedRecord
from asgi_health.fleet.scoreboard import ROWS, Scoreboard

__all__ = ["Masterboard", "Stage"]

_NOTICE_BYTES = 65_536
_BULLETIN_BYTES = 131_072
_WORDS_BYTES = 4096
_WORDS_MAX = 1800


class Stage(IntEnum):
    """How far the stop of the whole instance has come."""

    SERVING = 0
    DRAINING = 1
    """Readiness says no, everything is still served."""
    STOPPING = 2
    """Workers leave."""


class Masterboard:
    """The memory that all processes of one instance share.

    Args:
        config: of the fleet.
        is_warm: whether the workers are forked from a loaded master.
    """

    def __init__(self, config: FleetConfig, *, is_warm: bool) -> None:
        self.config = config
        self.is_warm = is_warm
        self.others_serve = False
        """Whether workers of another master serve on the same port, when a worker is forked."""
        self.workers = Scoreboard(None)
        size = mmap.PAGESIZE + _NOTICE_BYTES + _BULLETIN_BYTES + ROWS * _WORDS_BYTES
        self._memory = memory = mmap.mmap(-1, size)
        self._notice = SharedRecord(memory, offset=mmap.PAGESIZE, size_bytes=_NOTICE_BYTES)
        self.bulletin = SharedRecord(
            memory, offset=mmap.PAGESIZE + _NOTICE_BYTES, size_bytes=_BULLETIN_BYTES
        )
        """How the load goes, from the master to the responder."""
        self._words_offset = mmap.PAGESIZE + _NOTICE_BYTES + _BULLETIN_BYTES

    @property
    def stage(self) -> Stage:
        """How far the stop has come; one byte, so that no lock is needed."""
        return Stage(self._memory[0])

    @stage.setter
    def stage(self, stage: Stage) -> None:
        self._memory[0] = stage

    @property
    def was_complete(self) -> bool:
        """Whether all workers of the first generation have been ready."""
        return bool(self._memory[1])

    @was_complete.setter
    def was_complete(self, was_complete: bool) -> None:
        self._memory[1] = was_complete

    @property
    def is_ended_by_worker(self) -> bool:
        """Whether a worker ends the server by its exit code, because its boot failed."""
        return bool(self._memory[4])

    @is_ended_by_worker.setter
    def is_ended_by_worker(self, is_ended: bool) -> None:
        self._memory[4] = is_ended

    @property
    def workers_wanted(self) -> int:
        """How many workers the master keeps."""
        return int.from_bytes(self._memory[2:4], "little")

    @workers_wanted.setter
    def workers_wanted(self, count: int) -> None:
        self._memory[2:4] = count.to_bytes(2, "little")

    def tell(self, notice: dict[str, Any]) -> bool:
        """The master's word to all: restarts, endings, who died before it was ready, until when
        the workers die in a loop.

        Ten endings with the longest last words have room. False when there is none, and the old
        word stays.
        """
        return self._notice.write(notice)

    @property
    def notice(self) -> dict[str, Any]:
        """What the master said last."""
        return self._notice.read() or {}

    def leave_words(self, index: int, words: str) -> None:
        """Keep the end of a worker's last traceback for the master."""
        kept = words[-_WORDS_MAX:].encode("ascii", "replace").decode()
        while not self._words(index).write(kept):  # as JSON, some characters take six
            kept = kept[len(kept) // 4 + 1 :]

    def take_words(self, index: int) -> str:
        """The last traceback of the worker that had this row, once."""
        words = self._words(index).read() or ""
        if words:
            self._words(index).write("")
        return str(words)

    def _words(self, index: int) -> SharedRecord:
        offset = self._words_offset + index * _WORDS_BYTES
        return SharedRecord(self._memory, offset=offset, size_bytes=_WORDS_BYTES)
