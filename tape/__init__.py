"""What both sides agree on: names, digests, segments, receipts, durable writes, settings, errors.

Floor 0. Imports neither `agent` nor `receiver`. A thing lives here only if both sides import it;
sources, targets, wire clients and rules of one side live with that side.
"""

from functools import cache

__version__: str


def __getattr__(name: str) -> str:
    """`__version__` when it is first asked for: finding it costs more than all else that a small process imports."""
    if name != "__version__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return _version()


@cache
def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("hometape")
    except PackageNotFoundError:  # run from a tree that was never installed
        return "0+unknown"
