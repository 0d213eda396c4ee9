"""What runs here: versions of Hometape, of Python and of the libraries that touch bytes."""

import platform
from importlib.metadata import version

from tape import __version__
from tape.footer import FORMAT


def facts() -> dict[str, str]:
    """Name to version, Hometape first."""
    libraries = ("asyncssh", "pyarrow", "polars", "xxhash", "cryptography")
    return {
        "hometape": __version__,
        "segment-format": str(FORMAT),
        "python": platform.python_version(),
        "platform": platform.platform(),
        **{name: version(name) for name in libraries},
    }
