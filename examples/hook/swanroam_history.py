"""Writes each move of a tunnel to a file, one JSON object a line: a hook as a third party would make it."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from swanroam.hookspecs import hookimpl
from swanroam.model.effects import TunnelMoved


class History:
    """The plugin; swanroam makes one and calls the methods marked with `hookimpl`."""

    def __init__(self) -> None:
        self._file = Path("/var/lib/swanroam/history.jsonl")

    @hookimpl
    def swanroam_configure(self, options: Mapping[str, object]) -> None:
        """Take the option `file`. A ValueError leaves the plugin out and is shown to the operator."""
        file = options.get("file", str(self._file))
        if unknown := sorted(options.keys() - {"file"}):
            raise ValueError(f"{unknown[0]}: unknown option; known is file")
        if not isinstance(file, str) or not Path(file).is_absolute():
            raise ValueError(f"file: an absolute path is needed, not {file!r}")
        self._file = Path(file)

    @hookimpl
    def swanroam_moved(self, move: TunnelMoved) -> None:
        """Append a line. This runs on a thread of the plugin: swanroam never waits for the disk."""
        entry = {
            "at": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "tunnel": str(move.key),
            "from": str(move.old.local.address),
            "to": str(move.new.local.address),
            "trigger": move.trigger,
            "duration_ms": round(move.duration_s * 1000, 1),
        }
        with self._file.open("a", encoding="utf-8") as history:
            history.write(json.dumps(entry) + "\n")
