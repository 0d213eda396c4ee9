"""What both sides agree on: names, digests, segments, receipts, durable writes, settings, errors.

Floor 0. Imports neither `agent` nor `receiver`. A thing lives here only if both sides import it;
sources, targets, wire clients and rules of one side live with that side.
"""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("hometape")
except PackageNotFoundError:  # run from a tree that was never installed
    __version__ = "0+unknown"
