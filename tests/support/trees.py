"""Folder trees as dictionaries: relative path with `/` -> bytes."""

from collections.abc import Mapping
from pathlib import Path


def write_tree(root: Path, files: Mapping[str, bytes | str]) -> Path:
    """Write each file below `root` (text as UTF-8, line ends as given) and return `root`."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return root


def read_tree(root: Path, pattern: str = "**/*") -> dict[str, bytes]:
    """The bytes of every file below `root` that matches `pattern`, by its path relative to `root`."""
    return {
        path.relative_to(root).as_posix(): path.read_bytes() for path in sorted(root.glob(pattern)) if path.is_file()
    }
