"""Reads settings from strongswan.conf (man 5 strongswan.conf), as charon would, for the few that matter here.

Sections nest, names may be dotted, later values win, `include` takes patterns relative to the file it is in, and
`section : other { }` takes from `other` what it does not set itself.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

__all__ = ["Settings", "read_settings"]

INCLUDE_DEPTH: Final = 10  # MAX_INCLUDE_LEVEL of settings_parser.y
TOKEN: Final = re.compile(
    r"""
    (?: \s+ | \#[^\n]* )
    | include [ \t]+ (?![=]) (?: "(?P<quoted>(?:\\.|[^"\\])*)" | (?P<pattern>(?:\\.|[^\\\#}\s])+) )
    | (?P<name>[^\#{}:,="\s]+) \s* (?:
        = [ \t]* (?P<value>(?:"(?:\\.|[^"\\])*"|[^\#}"\n])*)
      | (?P<references>:[^{}\#=]*)? \s* (?P<open>\{)
      )
    | (?P<close>\})
    """,
    re.VERBOSE,
)
WORDS: Final[Mapping[str, bool]] = {
    **dict.fromkeys(("1", "yes", "true", "enabled"), True),
    **dict.fromkeys(("0", "no", "false", "disabled"), False),
}


@dataclass(slots=True)
class Settings:
    """Values by dotted name."""

    values: dict[str, str] = field(default_factory=dict)
    references: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def get(self, name: str) -> str | None:
        """The value of a setting, also through references of the sections it is in; None when it is not set."""
        return self._get(name, INCLUDE_DEPTH)

    def boolean(self, name: str, *, default: bool) -> bool:
        """A setting as charon takes it for yes or no."""
        return WORDS.get((self.get(name) or "").lower(), default)

    def _get(self, name: str, depth: int) -> str | None:
        if name in self.values or depth == 0:
            return self.values.get(name)
        parts = name.split(".")
        for length in range(len(parts) - 1, 0, -1):
            rest = ".".join(parts[length:])
            for other in self.references.get(".".join(parts[:length]), ()):
                if (value := self._get(f"{other}.{rest}", depth - 1)) is not None:
                    return value
        return None


def read_settings(
    file: Path,
    read: Callable[[Path], str],
    expand: Callable[[Path, str], Iterable[Path]],
) -> Settings:
    """Settings of a file and what it includes.

    `read` gives the text of a file, `expand` the files of a folder that fit a pattern. Raises OSError where the file
    cannot be read, and ValueError, naming file and line, where it is not in the format.
    """
    settings = Settings()
    _parse(file, read, expand, settings, (), INCLUDE_DEPTH)
    return settings


def _parse(
    file: Path,
    read: Callable[[Path], str],
    expand: Callable[[Path, str], Iterable[Path]],
    settings: Settings,
    prefix: tuple[str, ...],
    depth: int,
) -> None:
    text, at, sections = read(file), 0, [prefix]
    while at < len(text):
        match = TOKEN.match(text, at)
        if match is None:
            raise ValueError(f"{file}: line {text.count(chr(10), 0, at) + 1}: not in the format of strongswan.conf")
        at = match.end()
        pattern = match["quoted"] or match["pattern"]
        if pattern and depth:
            for included in expand(file.parent, _unescape(pattern)):
                _parse(included, read, expand, settings, sections[-1], depth - 1)
        elif match["open"]:
            sections.append((*sections[-1], match["name"]))
            names = (match["references"] or "").lstrip(":").replace(",", " ").split()
            if names:
                settings.references[".".join(sections[-1])] = tuple(names)
        elif match["name"]:
            settings.values[".".join((*sections[-1], match["name"]))] = _unquote(match["value"].strip())
        elif match["close"] and len(sections) > 1:
            sections.pop()


def _unquote(value: str) -> str:
    return _unescape(value[1:-1]) if len(value) > 1 and value[0] == value[-1] == '"' else value


def _unescape(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text)
