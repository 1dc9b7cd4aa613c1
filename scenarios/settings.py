"""Settings as `key=value`: reads them, and applies them to a configuration."""

from __future__ import annotations

import difflib
import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from scenarios.keys import allowed_by, choices_of, describe, item_models, models_of, plain, shown
from semcom.contracts import SemcomError

Config = TypeVar("Config", bound=BaseModel)


class _Yaml(yaml.SafeLoader):
    """YAML 1.2's plain scalars: in 1.1, which PyYAML reads, `no` is false, 010 is 8 and 1e-3 is text."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 (as in PyYAML itself)


for _tag, _pattern, _first in (
    ("null", r"(?:null|~|)", ["n", "~", ""]),
    ("bool", r"(?:true|True|false|False)", list("tTfF")),
    ("int", r"[-+]?(?:0|[1-9][0-9]*)", list("-+0123456789")),
    (
        "float",
        r"[-+]?(?:(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|\.inf)|\.nan",
        list("-+.0123456789"),
    ),
):
    _Yaml.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), _first)


def _read(key: str, text: str, given: str) -> Any:
    try:
        value = yaml.load(text, Loader=_Yaml)
        json.dumps(value)  # dates, sets and the like are not for configurations
    except (yaml.YAMLError, TypeError, ValueError):
        raise SemcomError(
            f"{key} = {given} can't be read: write a number, true, false, text or a list such as [1, 2]"
        ) from None
    return value


def _split(text: str) -> tuple[str, str]:
    key, sign, value = text.partition("=")
    key, value = key.strip(), value.strip()
    if not (sign and key and value):
        raise SemcomError(f"{text!r} is not a setting: write key=value, without spaces")
    return key, value


def parse_overrides(assignments: Sequence[str]) -> dict[str, Any]:
    """Reads `key=value` texts into {key: value}; values follow YAML 1.2 (`1e-3`, `true`, `[1, 2]`).

    Raises SemcomError for a text without key or value, for a value that is no YAML, for a key given twice.
    """
    overrides: dict[str, Any] = {}
    for text in assignments:
        key, value = _split(text)
        if key in overrides:
            raise SemcomError(f"{key} is given twice: keep one of them")
        overrides[key] = _read(key, value, value)
    return overrides


def parse_axes(assignments: Sequence[str]) -> dict[str, list[Any]]:
    """Reads `key=value,value,...` texts into {key: values}, in the order given.

    Raises SemcomError as `parse_overrides` does, and for a value that is listed twice.
    """
    axes: dict[str, list[Any]] = {}
    for text in assignments:
        key, listed = _split(text)
        if key in axes:
            raise SemcomError(f"{key} is given twice: list its values in one --axis")
        values = _read(key, f"[{listed}]", listed)
        if any(value in values[:index] for index, value in enumerate(values)):
            raise SemcomError(f"{key} = {listed} lists a value twice: keep one of them")
        axes[key] = values
    return axes


def _closest(key: str, known: Sequence[str]) -> str:
    """A near miss: a key that ends alike (`bits` for `codec.bits`), or one that is spelt nearly so."""
    same_end = [name for name in known if name.rpartition(".")[2] == key.rpartition(".")[2]]
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.6)
    ends = {name.rpartition(".")[2]: name for name in known}
    near_end = [ends[end] for end in difflib.get_close_matches(key.rpartition(".")[2], list(ends), n=1)]
    found = same_end[:1] or near or near_end
    return f"did you mean {found[0]}?" if found else f"the keys start with {', '.join(_heads(known))}"


def _heads(known: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(key.partition(".")[0] for key in known))


def _set(data: dict[str, Any], key: str, value: Any) -> None:
    *parents, name = key.split(".")
    for parent in parents:
        if not isinstance(data.get(parent), dict):
            data[parent] = {}
        data = data[parent]
    data[name] = value


def _get(data: Any, keys: Sequence[str | int]) -> Any:
    for key in keys:
        if isinstance(key, int):
            data = data[key] if isinstance(data, list) and key < len(data) else None
        else:
            data = data.get(key) if isinstance(data, dict) else None
    return data


def _tags(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """The keys that choose between models, such as link.kind."""
    for name, field in model.model_fields.items():
        if isinstance(field.discriminator, str):
            yield f"{prefix}{name}.{field.discriminator}"
        for part in models_of(field.annotation):
            yield from _tags(part, f"{prefix}{name}.")


def _locate(
    model: type[BaseModel], location: Sequence[Any], data: Any
) -> tuple[list[str | int], FieldInfo | None]:
    """Turns pydantic's location into a way through `data` and the field there.

    Union tags drop out of it, and so do list indices but those of models.
    """
    models, field = [model], None
    keys: list[str | int] = []
    for item in location:
        owner = next((part for part in models if item in part.model_fields), None)
        if owner is not None:
            field = owner.model_fields[item]
            keys.append(str(item))
            models = models_of(field.annotation)
        elif isinstance(item, int) and field is not None and (inside := item_models(field.annotation)):
            keys.append(item)
            models = inside
        elif isinstance(item, str) and isinstance(_get(data, keys), dict) and item in _get(data, keys):
            keys.append(item)
            models, field = [], None
        elif models and isinstance(item, str):
            # The tag of a union: of its models, only the chosen one has the fields that follow.
            tagged = [part for part in models if item in _tag_values(part) or item == part.__name__]
            models = tagged or models
    return keys, field


def _named(keys: Sequence[str | int]) -> str:
    """A way through the settings as it is written: data.room.furniture[0].size_m."""
    return "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in keys).removeprefix(".")


def _tag_values(model: type[BaseModel]) -> set[str]:
    return {choice for field in model.model_fields.values() for choice in choices_of(field.annotation)}


_FAULTS = {
    "greater_than": "is out of range",
    "greater_than_equal": "is out of range",
    "less_than": "is out of range",
    "less_than_equal": "is out of range",
    "multiple_of": "is out of range",
    "finite_number": "is out of range",
    "too_short": "has the wrong length",
    "too_long": "has the wrong length",
    "literal_error": "is not a choice",
    "enum": "is not a choice",
    "missing": "is missing",
}


def _refusal(model: type[BaseModel], data: dict[str, Any], error: ValidationError, given: str) -> SemcomError:
    """One line on the first fault that pydantic found."""
    fault = error.errors(include_url=False)[0]
    kind, context = fault["type"], fault.get("ctx", {})
    keys, field = _locate(model, fault["loc"], data)
    key = _named(keys)
    if kind == "union_tag_invalid":
        tag = str(context["discriminator"]).strip("'")
        choices = re.findall(r"'([^']*)'", str(context["expected_tags"]))
        return SemcomError(_not_a_choice(f"{key}.{tag}", _get(data, [*keys, tag]), choices))
    if kind == "extra_forbidden":
        partner = next((row.only_with for row in describe(model) if row.key == key and row.only_with), "")
        remedy = f"it takes {partner}" if partner else "leave it out"
        return SemcomError(f"{key} does not belong to the rest of the settings ({given}): {remedy}")
    value = _get(data, keys)
    if kind in ("value_error", "assertion_error"):
        reason = str(context.get("error", fault["msg"]))
        return SemcomError(f"{f'{key}: ' if key else ''}{reason} (given: {given})")
    if field is None:
        return SemcomError(f"{key} = {shown(value)}: {fault['msg']}")
    if kind == "literal_error" and choices_of(field.annotation):
        return SemcomError(_not_a_choice(key, value, choices_of(field.annotation)))
    if kind == "missing" and isinstance(fault["loc"][-1], int):
        kind = "too_short"
    if keys and isinstance(keys[-1], int):
        allowed = allowed_by(item_models(field.annotation)[0])
    elif groups := models_of(field.annotation):
        allowed = f"settings of its own, such as {key}.{next(iter(groups[0].model_fields))}"
    else:
        allowed = allowed_by(field.annotation, field.metadata)
    return SemcomError(
        f"{key} = {shown(value)} {_FAULTS.get(kind, 'has the wrong type')}: it takes {allowed}"
    )


def _not_a_choice(key: str, value: Any, choices: Sequence[str]) -> str:
    near = difflib.get_close_matches(str(value), choices, n=1)
    hint = f" (did you mean {near[0]}?)" if near else ""
    return f"{key} = {shown(value)} is not a choice: it takes one of {', '.join(choices)}{hint}"


def input_files(config: BaseModel) -> list[Path]:
    """Lists the files that a run of this configuration reads: every setting that is a path."""
    values = [getattr(config, name) for name in type(config).model_fields]
    inside = [path for value in values if isinstance(value, BaseModel) for path in input_files(value)]
    return [value for value in values if isinstance(value, Path)] + inside


def apply_overrides(config: Config, overrides: Mapping[str, Any]) -> Config:
    """Returns a copy of a configuration with {dotted key: value} set, checked strictly.

    Choosing another alternative of a part (link.kind=nr, or link=nr for short) drops the settings of the
    former one. Raises SemcomError, in one line, for an unknown key (with its near miss), a value of the
    wrong type or out of range (with what is allowed), and for settings that contradict each other.
    """
    model = type(config)
    known = [setting.key for setting in describe(model)]
    tags = {key.rpartition(".")[0]: key for key in _tags(model)}
    for part, key in tags.items():
        if part in overrides and key in overrides:
            raise SemcomError(f"{part} and {key} are the same setting: keep one of them")
    overrides = {tags.get(key, key): value for key, value in overrides.items()}
    for key in overrides:
        if key not in known:
            inside = [name for name in known if name.startswith(f"{key}.")]
            if inside:
                raise SemcomError(f"{key} is a group of settings: set one of {', '.join(inside)}")
            raise SemcomError(f"unknown key {key}: {_closest(key, known)}")
    data = plain(config)
    for part, key in tags.items():
        if key in overrides and overrides[key] != _get(data, key.split(".")):
            _set(data, part, {})
    for key, value in overrides.items():
        _set(data, key, value)
    given = ", ".join(f"{key} = {shown(value)}" for key, value in overrides.items())
    try:
        # JSON, so that a list may stand for a tuple though the check is strict (true is no integer).
        return model.model_validate_json(json.dumps(data), strict=True)
    except ValidationError as error:
        raise _refusal(model, data, error, given) from None


def sweep_cells(
    config: BaseModel, axes: Mapping[str, Sequence[Any]]
) -> list[tuple[dict[str, Any], BaseModel]]:
    """Lists the cells of a sweep, every combination of the axes' values: coordinates and configuration.

    Raises SemcomError for the first combination that the configuration refuses, before anything runs.
    """
    cells = []
    for values in itertools.product(*axes.values()):
        overrides = dict(zip(axes, values, strict=True))
        coordinates = {
            key: value if isinstance(value, str) or type(value) in (int, float) else json.dumps(value)
            for key, value in overrides.items()
        }
        cells.append((coordinates, apply_overrides(config, overrides)))
    return cells
