"""What there is to set: every key of a configuration, what it takes, what it is by default, what it means."""

from __future__ import annotations

import json
import types
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined


@dataclass(frozen=True)
class Setting:
    """One key that can be set: what it takes, what it is by default, and what it means.

    `only_with` is the choice that the key belongs to (link.kind = nr), or empty.
    """

    key: str
    allowed: str
    default: str
    description: str
    only_with: str = ""


def _strip(annotation: Any, metadata: Sequence[Any] = ()) -> tuple[Any, list[Any]]:
    found = list(metadata)
    while get_origin(annotation) is Annotated:
        annotation, *extra = get_args(annotation)
        for item in extra:
            found.extend(item.metadata if isinstance(item, FieldInfo) else [item])
    return annotation, found


def models_of(annotation: Any) -> list[type[BaseModel]]:
    """The models that a field may hold: one, the alternatives of a union, or none."""
    annotation, _ = _strip(annotation)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if get_origin(annotation) in (Union, types.UnionType):
        return [model for part in get_args(annotation) for model in models_of(part)]
    return []


def item_models(annotation: Any) -> list[type[BaseModel]]:
    """The models that the items of a list may be: none, if the field is no list of models."""
    annotation, _ = _strip(annotation)
    if get_origin(annotation) not in (tuple, list):
        return []
    return [model for part in get_args(annotation) for model in models_of(part)]


def _range(metadata: Sequence[Any]) -> str:
    words = {"ge": "of at least", "gt": "above", "le": "of at most", "lt": "below"}
    bounds = {
        name: getattr(item, name)
        for item in metadata
        for name in words
        if getattr(item, name, None) is not None
    }
    if bounds.keys() == {"ge", "le"}:
        return f" from {bounds['ge']} to {bounds['le']}"
    text = " and ".join(f"{words[name]} {bounds[name]}" for name in words if name in bounds)
    return f" {text}" if text else ""


def choices_of(annotation: Any) -> list[str]:
    """The choices of a field that takes one of some words or numbers; none for another field."""
    annotation, _ = _strip(annotation)
    if get_origin(annotation) is Literal:
        return [str(choice) for choice in get_args(annotation)]
    return []


def allowed_by(annotation: Any, metadata: Sequence[Any] = ()) -> str:
    """Says in words what a field takes: its type, its range or its choices."""
    annotation, metadata = _strip(annotation, metadata)
    arguments = get_args(annotation)
    origin = get_origin(annotation)
    if choices := choices_of(annotation):
        return f"one of {', '.join(choices)}" if len(choices) > 1 else f"only {choices[0]}"
    if origin in (Union, types.UnionType):
        parts = [allowed_by(part, metadata) for part in arguments if part is not type(None)]
        return " or ".join(parts + ["null"] * (type(None) in arguments))
    if origin in (tuple, list, set, frozenset, Sequence):
        if origin is tuple and Ellipsis not in arguments:
            parts = [allowed_by(part) for part in arguments]
            told = f"each {parts[0]}" if len(set(parts)) == 1 else f"[{', '.join(parts)}]"
            return f"a list of {len(arguments)}: {told}"
        length = _range([_Length(item) for item in metadata]).removeprefix(" of").strip()
        return f"a list{f' ({length} long)' if length else ''} of: {allowed_by(arguments[0])}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        fields = annotation.model_fields.items()
        parts = [f"{name}: {allowed_by(field.annotation, field.metadata)}" for name, field in fields]
        return f"{{{', '.join(parts)}}}"
    names = {bool: "true or false", int: "an integer", float: "a number", str: "text", Path: "a path"}
    return names.get(annotation, getattr(annotation, "__name__", str(annotation))) + _range(metadata)


class _Length:
    """A length bound read as a bound of a number."""

    def __init__(self, bound: Any) -> None:
        self.ge = getattr(bound, "min_length", None)
        self.le = getattr(bound, "max_length", None)


def shown(value: Any) -> str:
    """Writes a value as one would write it in a setting."""
    if value is PydanticUndefined:
        return "(required)"
    try:
        return json.dumps(value, default=_plain) if not isinstance(value, str) else value
    except ValueError:
        return str(value)


def _plain(value: Any) -> Any:
    """What JSON has no word for."""
    return plain(value) if isinstance(value, BaseModel) else str(value)


def _settings(model: type[BaseModel], values: BaseModel | None, prefix: str) -> Iterator[Setting]:
    for name, field in model.model_fields.items():
        key = prefix + name
        default = getattr(values, name) if values else field.get_default(call_default_factory=True)
        alternatives = models_of(field.annotation)
        tag = field.discriminator if isinstance(field.discriminator, str) else None
        if tag:
            choices = [c for part in alternatives for c in choices_of(part.model_fields[tag].annotation)]
            allowed = f"one of {', '.join(choices)}"
            yield Setting(
                f"{key}.{tag}", allowed, shown(getattr(default, tag, default)), field.description or ""
            )
        for part in alternatives:
            given = default if isinstance(default, part) else None
            choice = ", ".join(choices_of(part.model_fields[tag].annotation)) if tag else ""
            for row in _settings(part, given, f"{key}."):
                if row.key != f"{key}.{tag}":
                    yield replace(row, only_with=row.only_with or (f"{key}.{tag} = {choice}" if tag else ""))
        if not alternatives:
            yield Setting(
                key, allowed_by(field.annotation, field.metadata), shown(default), field.description or ""
            )


def describe(config_type: type[BaseModel], values: BaseModel | None = None) -> list[Setting]:
    """Lists every key of a configuration, nested ones dotted; defaults are those of `values` if given.

    A part that is one of several models lists the keys of each.
    """
    return list(_settings(config_type, values, ""))


def plain(config: BaseModel) -> dict[str, Any]:
    """Returns a configuration as plain dicts, lists, numbers and text, as JSON would hold it."""
    values: dict[str, Any] = json.loads(json.dumps(config.model_dump(), default=str))
    return values
