"""What dead processes have counted, in one file a kind."""

import json
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from asgi_health.adapters.prometheus.files import HEAD_BYTES, library

__all__ = ["Archive", "Manifest"]

_MANIFEST = "archive.json"


class Manifest(NamedTuple):
    """Which archives stand, and which files they contain that may still be there.

    An archive that is listed and missing was taken by a cleaner of temporary files.
    """

    number: int = 0
    archives: tuple[str, ...] = ()
    folded: tuple[str, ...] = ()

    @classmethod
    def read(cls, folder: Path) -> "Manifest":
        try:
            number, archives, folded = json.loads((folder / _MANIFEST).read_bytes())
        except FileNotFoundError:
            return cls()
        standing = tuple(name for name in archives if (folder / name).exists())
        return cls(number, standing, tuple(folded))

    def write(self, folder: Path) -> None:
        """Replace the one that stands, whole or not at all."""
        new = folder / f"{_MANIFEST}.new"
        new.write_text(json.dumps(self))
        new.replace(folder / _MANIFEST)


class Archive:
    """What dead processes have counted. Used under the exclusive lock.

    The manifest's replacement is the one moment in which everything changes: killed before it,
    nothing has happened; killed after it, the next one removes what is left.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def fold(self, dead: Iterable[Path]) -> None:
        before = Manifest.read(self._folder)
        self._remove(before.folded)
        self._remove(path.name for path in self._folder.glob("*_archive-*.db")
                     if path.name not in before.archives)  # fmt: skip
        found = [path for path in dead if path.name not in before.folded]
        gauges = [path.name for path in found if path.name.startswith("gauge_")]
        counts = [path for path in found if path.name not in gauges]
        if counts:
            number = before.number + 1
            sources = [*counts, *(self._folder / name for name in before.archives)]
            after = Manifest(
                number, self._write(sources, number), tuple(path.name for path in sources)
            )
            after.write(self._folder)
            self._remove(after.folded)
            after._replace(folded=()).write(self._folder)  # a name may come again
        self._remove(gauges)

    def _write(self, sources: Iterable[Path], number: int) -> tuple[str, ...]:
        """Sum the files by kind; the names of the new archives."""
        mapped = library("values").MmapedDict
        sums: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
        for path in sources:
            if path.stat().st_size >= HEAD_BYTES:
                kind = sums[path.name.partition("_")[0]]
                for key, value, _, _ in mapped.read_all_values_from_file(str(path)):
                    kind[key] += value
        names = []
        for kind_name, values in sums.items():
            names.append(f"{kind_name}_archive-{number}.db")
            archive = mapped(str(self._folder / names[-1]))
            for key, value in values.items():
                archive.write_value(key, value, 0.0)
            archive.close()
        return tuple(names)

    def _remove(self, names: Iterable[str]) -> None:
        for name in names:
            (self._folder / name).unlink(missing_ok=True)
