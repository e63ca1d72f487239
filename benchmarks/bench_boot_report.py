"""What recording the boot report adds to a heavy boot: CPU of the whole process."""

import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from harness import ROOT, alternate, heavy_project, options, publish, ratio

RECORDED = "from asgi_health.boot import load_in_place; load_in_place('heavy:app')"
BARE = "import asgi_health.boot, heavy"


def cpu_of(program: str, folder: Path) -> Callable[[], float]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(folder)])}

    def measure() -> float:
        before = os.times()
        subprocess.run([sys.executable, "-c", program], check=True, cwd=folder, env=environment)
        after = os.times()
        children = after.children_user + after.children_system
        return children - before.children_user - before.children_system

    return measure


def main() -> None:
    found = options(__doc__)
    with heavy_project() as folder:
        ours, bare = alternate(found.rounds, [cpu_of(RECORDED, folder), cpu_of(BARE, folder)])
    publish(
        "bench_boot_report",
        title="Cost of the boot report",
        how="CPU of a process that imports the heavy project, 600 modules, recorded and not.",
        head=("recorded", "bare import", "ratio", "bar"),
        rows=[
            (
                f"{statistics.median(ours):.2f} s",
                f"{statistics.median(bare):.2f} s",
                f"{ratio(ours, bare):.3f} ×",
                "≤ 1.03 ×",
            )
        ],
        found=found,
    )


if __name__ == "__main__":
    main()
