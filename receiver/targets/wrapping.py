"""A target around another: passes everything on. What a wrapper changes, it overrides."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from receiver.targets.contract import Capabilities, Entry, Limits, Parcel, Proof, State, Target
from tape.errors import HometapeError


class Wrapper(Target):
    """The same target as `inner`, with its place, capabilities and limits."""

    def __init__(self, inner: Target) -> None:
        super().__init__(inner.place)
        self.inner = inner

    @property
    def capabilities(self) -> Capabilities:  # type: ignore[override] # those of the inner one, whenever they change
        """See the contract."""
        return self.inner.capabilities

    @property
    def limits(self) -> Limits:  # type: ignore[override] # as above
        """See the contract."""
        return self.inner.limits

    def put_many(self, parcels: Sequence[Parcel]) -> list[HometapeError | None]:
        """See the contract."""
        return self.inner.put_many(parcels)

    def read(self, path: str) -> Iterator[bytes]:
        """See the contract."""
        return self.inner.read(path)

    def stat(self, path: str) -> int | None:
        """See the contract."""
        return self.inner.stat(path)

    def list(self, prefix: str = "") -> Iterator[Entry]:
        """See the contract."""
        return self.inner.list(prefix)

    def verify(self, path: str) -> Proof:
        """See the contract."""
        return self.inner.verify(path)

    def verify_many(self, parcels: Sequence[Parcel]) -> Sequence[Proof | HometapeError]:
        """See the contract."""
        return self.inner.verify_many(parcels)

    def fetch_many(self, paths: Sequence[str], folder: Path) -> Sequence[Path | HometapeError]:
        """See the contract."""
        return self.inner.fetch_many(paths, folder)

    def set_aside(self, path: str, why: str) -> str:
        """See the contract."""
        return self.inner.set_aside(path, why)

    def note_sums(self, sums: Sequence[tuple[str, str]]) -> None:
        """See the contract."""
        self.inner.note_sums(sums)

    def sums(self, folder: str) -> dict[str, str]:
        """See the contract."""
        return self.inner.sums(folder)

    def mend_sums(self, folder: str, right: Mapping[str, str]) -> None:
        """See the contract."""
        self.inner.mend_sums(folder, right)

    def free(self) -> int | None:
        """See the contract."""
        return self.inner.free()

    def state(self) -> State:
        """See the contract."""
        return self.inner.state()

    def instance(self) -> str:
        """See the contract."""
        return self.inner.instance()

    def settle(self) -> None:
        """See the contract."""
        self.inner.settle()

    def recover(self) -> None:
        """See the contract."""
        self.inner.recover()

    def local(self, path: str) -> Path | None:
        """See the contract."""
        return self.inner.local(path)


def innermost(target: Target) -> Target:
    """The target itself, without what is around it: for what only its kind can do."""
    while isinstance(target, Wrapper):
        target = target.inner
    return target
