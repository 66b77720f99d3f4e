"""Programs of this machine, run to their end."""

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

__all__ = ["TOP", "output"]

TOP = Path(__file__).resolve().parents[2]


def output(*command: str | Path, where: Path = TOP, environment: Mapping[str, str] | None = None) -> str:
    """What a command writes, on both outputs; fails when it does. `environment` is added to that of this process."""
    done = subprocess.run(
        command,
        cwd=where,
        env={**os.environ, **(environment or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{' '.join(map(str, command))}: status {done.returncode}\n{done.stdout}"
    return done.stdout
