"""A small checker for values that came out of TOML: every problem is found and named, not only the first.

A library was tried: msgspec is small and fast, but stops at the first problem, does not name the key inside a table of
free names ("$.tunnels[...]"), and does not say which keys or words there are.
"""

import difflib
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import ip_address, ip_network
from typing import Final, TypeVar

from swanroam.model.path import IPAddress, IPNetwork

__all__ = ["Problems", "Table", "describe", "suggestion"]

Word = TypeVar("Word", bound=StrEnum)
Value = TypeVar("Value")

TYPE_NAMES: Final[Mapping[type, str]] = {
    str: "a string",
    bool: "a boolean",
    int: "an integer",
    float: "a float",
    list: "an array",
    dict: "a table",
}
SHOWN_CHARACTERS: Final = 60


def describe(value: object) -> str:
    """A value and its type, short and on one line, for a message."""
    kind = TYPE_NAMES.get(type(value), f"a {type(value).__name__}")
    if isinstance(value, dict | list) or (isinstance(value, float) and not math.isfinite(value)):
        return kind
    shown = ascii(value) if isinstance(value, str) else str(value).lower()
    return f"{kind}, {shown if len(shown) <= SHOWN_CHARACTERS else shown[:SHOWN_CHARACTERS] + '...'}"


def suggestion(word: str, accepted: Iterable[str]) -> str:
    """`; did you mean "..."?` where an accepted word is near, else nothing."""
    near = difflib.get_close_matches(word.lower(), list(accepted), n=1, cutoff=0.6)
    return f'; did you mean "{near[0]}"?' if near else ""


@dataclass(slots=True)
class Problems:
    """Problems found so far, as (dotted key, what is wrong and what is accepted)."""

    found: list[tuple[str, str]] = field(default_factory=list)

    def add(self, where: str, problem: str) -> None:
        """Note a problem; `where` is a dotted key."""
        self.found.append((where, problem))


class Table:
    """One TOML table: keys are taken out with a type, and what is left over at the end is unknown.

    A key that is absent or wrong gives its default; what is wrong goes to `problems`.
    """

    def __init__(self, values: Mapping[str, object], problems: Problems, where: str = "") -> None:
        self._values, self._problems, self._where = values, problems, where
        self._taken: list[str] = []

    def name(self, key: str) -> str:
        """The dotted key of a key of this table, quoted where TOML wants it."""
        bare = key.isascii() and key.replace("-", "").replace("_", "").isalnum()
        shown = key if bare else ascii(key).replace("'", '"')
        return f"{self._where}.{shown}" if self._where else shown

    def complain(self, key: str, problem: str) -> None:
        """Note a problem with a key of this table."""
        self._problems.add(self.name(key), problem)

    def has(self, key: str) -> bool:
        """Whether the key is there, right or wrong."""
        return key in self._values

    def word(self, key: str, words: type[Word], default: Word | None) -> Word | None:
        """A string that is one of `words`. Without a default the key is required."""
        accepted = ", ".join(f'"{word}"' for word in words)
        value = self._take(key)
        if value is None:
            if default is None:
                self.complain(key, f"is required: one of {accepted}")
            return default
        if isinstance(value, str) and value in {word.value for word in words}:
            return words(value)
        near = suggestion(value, words) if isinstance(value, str) else ""
        self.complain(key, f"is {describe(value)}; accepted: {accepted}{near}")
        return default

    def integer(self, key: str, default: int, low: int, high: int) -> int:
        """An integer in low..high, both included."""
        value = self._take(key)
        if value is None:
            return default
        if type(value) is int and low <= value <= high:
            return value
        self.complain(key, f"is {describe(value)}; accepted: an integer, {low} to {high}")
        return default

    def flag(self, key: str, default: bool | None) -> bool | None:
        """True or false."""
        value = self._take(key)
        if value is None or isinstance(value, bool):
            return default if value is None else value
        self.complain(key, f"is {describe(value)}; accepted: true, false")
        return default

    def text(self, key: str, default: str) -> str:
        """A string."""
        value = self._take(key)
        if value is None or isinstance(value, str):
            return default if value is None else value
        self.complain(key, f"is {describe(value)}; accepted: a string")
        return default

    def texts(self, key: str) -> tuple[str, ...]:
        """An array of strings, empty when absent."""
        value = self._take(key)
        if value is None:
            return ()
        if not isinstance(value, list):
            self.complain(key, f"is {describe(value)}; accepted: an array of strings")
            return ()
        for index, item in enumerate(value):
            if not isinstance(item, str):
                self.complain(f"{key}", f"has {describe(item)} at index {index}; accepted: an array of strings")
        return tuple(item for item in value if isinstance(item, str))

    def networks(self, key: str, default: tuple[IPNetwork, ...]) -> tuple[IPNetwork, ...]:
        """An array of networks, such as "192.0.2.0/24"; one that is empty would let nothing in, and is an error."""
        texts = self.texts(key)
        if key not in self._values:
            return default
        if self._values[key] == []:
            self.complain(key, "is empty; accepted: at least one network, or no such key for any")
        return self._parsed(key, texts, ip_network, 'a network, such as "192.0.2.0/24"')

    def addresses(self, key: str, default: tuple[IPAddress, ...]) -> tuple[IPAddress, ...]:
        """An array of IP addresses."""
        texts = self.texts(key)
        if key not in self._values:
            return default
        return self._parsed(key, texts, ip_address, 'an address, such as "2001:db8::1"')

    def _parsed(
        self, key: str, texts: Iterable[str], parse: Callable[[str], Value], accepted: str
    ) -> tuple[Value, ...]:
        found: list[Value] = []
        for text in texts:
            try:
                found.append(parse(text))
            except ValueError:
                self.complain(key, f"has {describe(text)}; accepted: {accepted}")
        return tuple(found)

    def table(self, key: str) -> "Table":
        """A table, empty when absent."""
        value = self._take(key)
        if value is None or isinstance(value, dict):
            return Table(value or {}, self._problems, self.name(key))
        self.complain(key, f"is {describe(value)}; accepted: a table")
        return Table({}, self._problems, self.name(key))

    def rest(self) -> tuple[str, ...]:
        """The keys that were not taken yet, in the order of the file."""
        return tuple(key for key in self._values if key not in self._taken)

    def raw(self) -> dict[str, object]:
        """All of this table, unchecked; nothing is left over."""
        self._taken.extend(self._values)
        return dict(self._values)

    def finish(self) -> None:
        """Complain of every key that was not taken: there is none of that name."""
        accepted = sorted(set(self._taken))
        for key in self.rest():
            self.complain(key, f"is not known; accepted here: {', '.join(accepted)}{suggestion(key, accepted)}")

    def _take(self, key: str) -> object:
        self._taken.append(key)
        return self._values.get(key)
