"""TOML and JSON to the core types and back. An unknown key is an error, so is a missing one."""

import dataclasses
import json
import tomllib
import types
import typing
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from workingpapers.core.types import Card, Costs, Evidence, Picture

T = TypeVar("T")


class CodecError(ValueError):
    """A file that does not say what the type needs; the message names file, key and expectation."""


def decode(kind: type[T], value: object, where: str) -> T:
    """Build `kind` from plain TOML or JSON values.

    Args:
        kind: a dataclass, or any type that the dataclasses of `core.types` use in a field.
        value: what the parser returned.
        where: file and key, for the message.

    Raises:
        CodecError: naming `where`, what was expected and what came.
    """
    return typing.cast(T, _decode(kind, value, where))


def _decode(kind: Any, value: Any, where: str) -> Any:
    origin, args = get_origin(kind), get_args(kind)
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return _decode_record(kind, value, where)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        (inner,) = (arg for arg in args if arg is not type(None))
        return _decode(inner, value, where)
    if origin is Literal:
        if value not in args:
            raise CodecError(
                f"{where}: expected one of {', '.join(map(repr, args))}, got {value!r}"
            )
        return value
    if origin is tuple:
        if not isinstance(value, list):
            raise CodecError(f"{where}: expected a list, got {value!r}")
        if args[-1] is Ellipsis:
            return tuple(_decode(args[0], item, f"{where}[{i}]") for i, item in enumerate(value))
        if len(value) != len(args):
            raise CodecError(f"{where}: expected {len(args)} values, got {value!r}")
        pairs = zip(args, value, strict=True)
        return tuple(_decode(a, item, f"{where}[{i}]") for i, (a, item) in enumerate(pairs))
    if origin is Mapping:
        if not isinstance(value, dict):
            raise CodecError(f"{where}: expected a table, got {value!r}")
        return {k: _decode(args[1], item, f"{where}.{k}") for k, item in value.items()}
    if kind is date:
        if isinstance(value, str):
            try:
                return date.fromisoformat(value)
            except ValueError:
                raise CodecError(f"{where}: expected YYYY-MM-DD, got {value!r}") from None
        kind_matches = isinstance(value, date)
    elif kind is float:
        kind_matches = isinstance(value, int | float) and not isinstance(value, bool)
        value = float(value) if kind_matches else value
    else:
        kind_matches = isinstance(value, kind) and not (kind is int and isinstance(value, bool))
    if not kind_matches:
        raise CodecError(f"{where}: expected {kind.__name__}, got {value!r}")
    return value


def _decode_record(kind: type, value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise CodecError(f"{where}: expected a table, got {value!r}")
    hints, fields = get_type_hints(kind), dataclasses.fields(kind)
    known = {field.name for field in fields}
    for key in value:
        if key not in known:
            raise CodecError(f"{where}: unknown key {key!r}, expected {', '.join(sorted(known))}")
    for field in fields:
        required = field.default is field.default_factory is dataclasses.MISSING
        if required and field.name not in value:
            raise CodecError(
                f"{where}: missing key {field.name!r}, expected {_name(hints[field.name])}"
            )
    made = {key: _decode(hints[key], item, f"{where}: {key}") for key, item in value.items()}
    try:
        return kind(**made)
    except ValueError as error:
        raise CodecError(f"{where}: {error}") from None


def _name(kind: Any) -> str:
    return kind.__name__ if isinstance(kind, type) and not get_args(kind) else str(kind)


def encode(value: Any) -> Any:
    """Turn a core type into plain values that JSON can hold; the inverse of `decode`."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: encode(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): encode(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [encode(item) for item in value]
    if isinstance(value, date):
        return value.isoformat()
    return value


def read_card(path: Path) -> Card:
    """Read `papers/<slug>/card.toml`; the slug is the folder's name."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CodecError(f"{path}: missing file, expected a card") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise CodecError(f"{path}: expected TOML: {error}") from None
    if "slug" in table:
        raise CodecError(
            f"{path}: unknown key 'slug', expected none: the folder's name is the slug"
        )
    card = decode(Card, {**table, "slug": path.parent.name}, str(path))
    keys = [claim.key for claim in card.claims]
    if not keys or len(set(keys)) != len(keys):
        raise CodecError(f"{path}: claims: expected one or more with keys of their own, got {keys}")
    return card


def read_evidence(path: Path) -> tuple[Evidence, ...]:
    """Read what `write_evidence` wrote. A missing file is no evidence, not an error."""
    return _read(path, "evidence", Evidence)


def write_evidence(path: Path, evidence: tuple[Evidence, ...]) -> None:
    """Write all evidence of a folder at once; a reader sees the old file or the new one."""
    _write(path, "evidence", evidence)


def read_pictures(path: Path) -> tuple[Picture, ...]:
    """Read what `write_pictures` wrote. A missing file is no pictures, not an error."""
    return _read(path, "pictures", Picture)


def write_pictures(path: Path, pictures: tuple[Picture, ...]) -> None:
    """Write what is known of all pictures of a folder at once."""
    _write(path, "pictures", pictures)


def read_costs(path: Path) -> Costs | None:
    """Read what `write_costs` wrote; None where there is no file."""
    found = _read(path, "costs", Costs)
    return found[0] if found else None


def write_costs(path: Path, costs: Costs) -> None:
    """Write what a method costs."""
    _write(path, "costs", (costs,))


def _read(path: Path, key: str, kind: type[T]) -> tuple[T, ...]:
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return ()
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CodecError(f"{path}: expected JSON: {error}") from None
    if not isinstance(table, dict) or set(table) != {key}:
        raise CodecError(f"{path}: expected an object with the one key {key!r}")
    if not isinstance(table[key], list):
        raise CodecError(f"{path}: {key}: expected a list, got {table[key]!r}")
    return tuple(decode(kind, item, f"{path}: {key}[{i}]") for i, item in enumerate(table[key]))


def _write(path: Path, key: str, items: tuple[Any, ...]) -> None:
    text = json.dumps({key: encode(items)}, indent=1, ensure_ascii=False) + "\n"
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)
