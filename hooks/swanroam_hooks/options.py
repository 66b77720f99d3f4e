"""Reads a plugin's options with errors that name the option, what is allowed and what was there."""

from collections.abc import Collection, Mapping

__all__ = ["Options"]


class Options:
    """The table `[hooks.NAME]`. Methods raise ValueError or TypeError, as swanroam_configure may."""

    def __init__(self, table: Mapping[str, object], known: Collection[str]) -> None:
        if unknown := sorted(table.keys() - set(known)):
            raise ValueError(f"{unknown[0]}: unknown option; known are {', '.join(sorted(known))}")
        self._table = table

    def boolean(self, key: str, default: bool) -> bool:
        """A boolean."""
        value = self._table.get(key, default)
        if not isinstance(value, bool):
            raise _wrong(key, "true or false", value)
        return value

    def integer(self, key: str, default: int) -> int:
        """A whole number."""
        value = self._table.get(key, default)
        if not isinstance(value, int) or isinstance(value, bool):
            raise _wrong(key, "a whole number", value)
        return value

    def seconds(self, key: str, default: float) -> float:
        """A positive time."""
        value = self._table.get(key, default)
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise _wrong(key, "a number of seconds", value)
        if not 0 < value < float("inf"):
            raise ValueError(f"{key}: a time greater than 0 is needed, not {value}")
        return float(value)

    def text(self, key: str, default: str) -> str:
        """A string that is not empty."""
        value = self._table.get(key, default)
        if not isinstance(value, str):
            raise _wrong(key, "a string", value)
        if not value:
            raise ValueError(f"{key}: is empty")
        return value

    def choice(self, key: str, default: str, allowed: Collection[str]) -> str:
        """One of the allowed strings."""
        value = self.text(key, default)
        if value not in allowed:
            raise ValueError(f"{key}: {value!r} is none of {', '.join(allowed)}")
        return value

    def strings(self, key: str, default: Collection[str], allowed: Collection[str] | None = None) -> tuple[str, ...]:
        """A list of strings, of the allowed ones when there are such."""
        value = self._table.get(key, list(default))
        if not isinstance(value, list | tuple):
            raise _wrong(key, "a list of strings", value)
        for index, item in enumerate(value):
            if not isinstance(item, str):
                raise _wrong(f"{key}[{index}]", "a string", item)
            if not item:
                raise ValueError(f"{key}[{index}]: is empty")
            if allowed is not None and item not in allowed:
                raise ValueError(f"{key}[{index}]: {item!r} is none of {', '.join(allowed)}")
        return tuple(value)


def _wrong(key: str, expected: str, value: object) -> TypeError:
    return TypeError(f"{key}: {expected} is needed, not {value!r:.60}")
