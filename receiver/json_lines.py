"""Values between a process and its child: one JSON document a line."""

import json
from typing import IO, Any


def send(pipe: IO[bytes], value: Any) -> None:
    """Write one, at once; raises OSError where nobody reads any more."""
    pipe.write(json.dumps(value).encode("ascii") + b"\n")
    pipe.flush()
