"""Programs are measured as they are where they are installed: with their modules compiled."""

import atexit
import os
import shutil
import subprocess
import sys
import tempfile
from functools import cache


@cache
def environment(module: str) -> dict[str, str]:
    """The environment for a program of ours that imports this module, which is compiled now."""
    folder = tempfile.mkdtemp(prefix="bench-compiled-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    found = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    found["PYTHONPYCACHEPREFIX"] = folder
    subprocess.run([sys.executable, "-c", f"import {module}"], check=True, env=found)
    return found
