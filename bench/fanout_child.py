"""What `bench_fanout` measures: one whole process that brings three targets level."""

import asyncio
import sys
from pathlib import Path

from receiver.catalog import Catalog
from receiver.fanout import Fanout
from receiver.settings import TargetSettings
from receiver.targets.opening import open_target
from tape.clock import SYSTEM
from tape.console import spare_the_collector
from tape.log import configure

NAMES = ("one", "two", "three")


def entry(folder: Path, name: str) -> TargetSettings:
    """The settings of a target in a folder."""
    return TargetSettings(id=name, path=folder / name, home=name == "home", medium=name)


def main(folder: Path) -> int:
    """Drain; 0 if every target is level."""
    configure(level="error")
    spare_the_collector()
    targets = [open_target(entry(folder, name), folder / "state") for name in ("home", *NAMES)]
    with Catalog.open(folder / "state", clock=SYSTEM) as catalog:
        views = asyncio.run(Fanout(catalog, targets, clock=SYSTEM).drain())
    left = [view for view in views if not view.level]
    if left:
        print(left, file=sys.stderr)
    return 1 if left else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
