"""The fake charon passes the contract of the real one."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.vici import FakeCharon
from tests.fakes.vici_contract import ViciContract


class TestFakeCharon(ViciContract):
    """The contract, kept by the fake."""

    @pytest.fixture
    def charon(self, tmp_path: Path) -> Iterator[FakeCharon]:
        with FakeCharon(tmp_path / "vici") as charon:
            yield charon
