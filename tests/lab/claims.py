"""Several guests divide the lab among them: the stories of a module are told by the one that comes to it first.

Modules with the same TOGETHER are one, as those that fill the same table.
"""

import os
from functools import cache
from pathlib import Path

import pytest

__all__ = ["is_ours"]

FOLDER = os.environ.get("SWANROAM_CLAIMS")
"""What the guests have in common; not there where there is one, which tells all of them."""


def is_ours(item: pytest.Item) -> bool:
    """Whether a story is told here."""
    module = item.getparent(pytest.Module)
    if FOLDER is None or module is None or "lab" not in item.path.parts:
        return True
    return _claim(Path(FOLDER), getattr(module.obj, "TOGETHER", item.path.stem))


@cache
def _claim(folder: Path, name: str) -> bool:
    try:
        (folder / name).mkdir()
    except FileExistsError:
        return False
    return True
