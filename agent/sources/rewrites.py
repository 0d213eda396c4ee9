"""Files that are made anew again and again: each time a life begins, and all of the file is read and sent once more."""

OFTEN = 5
WITHIN = 600.0
HINT = "have the writer append, or name the file in `exclude`"


class Rewrites:
    """When which life at a path was cut or replaced, as far back as WITHIN seconds. Times are monotonic."""

    def __init__(self) -> None:
        self._ended: dict[str, dict[str, float]] = {}
        self._told: set[str] = set()

    def note(self, path: str, life: str, now: float) -> bool:
        """A life ended or began so. True when that makes it too often; said once until it has calmed down."""
        self._forget(now)
        self._ended.setdefault(path, {})[life] = now
        if len(self._ended[path]) < OFTEN or path in self._told:
            return False
        self._told.add(path)
        return True

    def found(self, life: str) -> None:
        """What was cut is in a copy: that was a rotation."""
        for lives in self._ended.values():
            lives.pop(life, None)

    def often(self, now: float) -> tuple[str, ...]:
        """Paths that were made anew too often of late."""
        self._forget(now)
        return tuple(sorted(self._told))

    def _forget(self, now: float) -> None:
        for path, lives in list(self._ended.items()):
            while lives and next(iter(lives.values())) < now - WITHIN:
                del lives[next(iter(lives))]
            if len(lives) < OFTEN:
                self._told.discard(path)
            if not lives:
                del self._ended[path]
