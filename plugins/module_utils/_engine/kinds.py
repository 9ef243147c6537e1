# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The shape of plain data that people write: each kind takes a value and notes what is wrong with it."""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Callable

#: Takes the place of a value (`databases.shop.jobs`), the value, and a list that problems are added to; gives
#: back what the program wants. What it gives for a wrong value is never used: problems end in an error.
Kind = Callable[[str, Any, list[str]], Any]


def _said(value: Any) -> str:
    """What was found, in the words of YAML. Text is not repeated: it may be a password."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true or false (put it in quotes when it is text)"
    if isinstance(value, (int, float)):
        return f"the number {value}"
    names: dict[type, str] = {str: "text", list: "a list", dict: "a mapping"}
    return names.get(type(value), type(value).__name__)


def text(place: str, value: Any, problems: list[str]) -> str:
    """Text that is not empty and that a program's argument can hold."""
    if not isinstance(value, str):
        problems.append(f"{place} has to be text, not {_said(value)}")
    elif not value or "\0" in value:
        problems.append(
            f"{place} must not be empty" if not value else f"{place} must not hold a zero byte"
        )
    return value if isinstance(value, str) else ""


def flag(place: str, value: Any, problems: list[str]) -> bool:
    if not isinstance(value, bool):
        problems.append(f"{place} has to be true or false, not {_said(value)}")
    return bool(value)


def number(lowest: float, *, whole: bool = False) -> Kind:
    """A number from `lowest` on."""
    wanted = f"a {'whole ' if whole else ''}number from {lowest:g} on"

    def kind(place: str, value: Any, problems: list[str]) -> float:
        good = isinstance(value, (int, float)) and not isinstance(value, bool)
        good = good and math.isfinite(value) and value >= lowest and not (whole and value % 1)
        if not good:
            problems.append(f"{place} has to be {wanted}, not {_said(value)}")
            return 0
        return int(value) if whole else float(value)

    return kind


def choice(names: Sequence[str]) -> Kind:
    """One of a few words."""

    def kind(place: str, value: Any, problems: list[str]) -> str:
        if value not in names:
            found = f'"{value}"' if isinstance(value, str) else _said(value)
            problems.append(f"{place} has to be one of {', '.join(names)}, not {found}")
        return str(value)

    return kind


def path(place: str, value: Any, problems: list[str]) -> Path:
    """An absolute path: timers and people start the command in different directories."""
    found = Path(text(place, value, problems))
    if isinstance(value, str) and value and not found.is_absolute():
        problems.append(f'{place} has to begin with "/"')
    return found


def anything(unused_place: str, value: Any, unused_problems: list[str]) -> Any:
    return value


def list_of(item: Kind) -> Kind:
    """A list, as a tuple; one value that is no list stands for a list of it."""

    def kind(place: str, value: Any, problems: list[str]) -> tuple[Any, ...]:
        if value is None:
            problems.append(f"{place} has to be a list, not nothing")
            return ()
        if not isinstance(value, list):
            return (item(place, value, problems),)
        return tuple(
            item(f"{place}[{number}]", entry, problems) for number, entry in enumerate(value, 1)
        )

    return kind


def map_of(item: Kind) -> Kind:
    """A mapping of names to one kind of value."""

    def kind(place: str, value: Any, problems: list[str]) -> dict[str, Any]:
        return {
            key: item(f"{place}.{key}" if place else key, entry, problems)
            for key, entry in _entries(place, value, problems)
        }

    return kind


def fields(kinds: dict[str, Kind]) -> Kind:
    """A mapping with these keys and no others; keys that are missing stay so."""

    def kind(place: str, value: Any, problems: list[str]) -> dict[str, Any]:
        found = {}
        for key, entry in _entries(place, value, problems):
            whole = f"{place}.{key}" if place else key
            if key in kinds:
                found[key] = kinds[key](whole, entry, problems)
                continue
            like = difflib.get_close_matches(key, kinds, 1)
            hint = f"did you mean {like[0]}?" if like else f"known are {', '.join(kinds)}"
            problems.append(f"{whole} is no known key ({hint})")
        return found

    return kind


def _entries(place: str, value: Any, problems: list[str]) -> list[tuple[str, Any]]:
    where = place or "the file"
    if not isinstance(value, dict):
        problems.append(f"{where} has to be a mapping (`key: value`), not {_said(value)}")
        return []
    for key in value:
        if not isinstance(key, str):
            problems.append(f"{where} has the key {key}, which is no text: put it in quotes")
    return [(key, entry) for key, entry in value.items() if isinstance(key, str)]
