"""Settings as `key=value`: reads them, applies them to a configuration, and lists what there is to set."""

from __future__ import annotations

import difflib
import json
import re
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from semcom.contracts import SemcomError

Config = TypeVar("Config", bound=BaseModel)


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


def _read(key: str, text: str, shown: str) -> Any:
    try:
        value = yaml.load(text, Loader=_Yaml)
        json.dumps(value)  # dates, sets and the like are not for configurations
    except (yaml.YAMLError, TypeError, ValueError):
        raise SemcomError(
            f"{key} = {shown} can't be read: write a number, true, false, text or a list such as [1, 2]"
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


def _strip(annotation: Any, metadata: Sequence[Any] = ()) -> tuple[Any, list[Any]]:
    found = list(metadata)
    while get_origin(annotation) is Annotated:
        annotation, *extra = get_args(annotation)
        for item in extra:
            found.extend(item.metadata if isinstance(item, FieldInfo) else [item])
    return annotation, found


def _models(annotation: Any) -> list[type[BaseModel]]:
    """The models that a field may hold: one, the alternatives of a union, or none."""
    annotation, _ = _strip(annotation)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if get_origin(annotation) in (Union, types.UnionType):
        return [model for part in get_args(annotation) for model in _models(part)]
    return []


def _item_models(annotation: Any) -> list[type[BaseModel]]:
    """The models that the items of a list may be: none, if the field is no list of models."""
    annotation, _ = _strip(annotation)
    if get_origin(annotation) not in (tuple, list):
        return []
    return [model for part in get_args(annotation) for model in _models(part)]


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


def _choices(annotation: Any) -> list[str]:
    annotation, _ = _strip(annotation)
    if get_origin(annotation) is Literal:
        return [str(choice) for choice in get_args(annotation)]
    return []


def _allowed(annotation: Any, metadata: Sequence[Any] = ()) -> str:
    """Says in words what a field takes: its type, its range or its choices."""
    annotation, metadata = _strip(annotation, metadata)
    arguments = get_args(annotation)
    origin = get_origin(annotation)
    if choices := _choices(annotation):
        return f"one of {', '.join(choices)}" if len(choices) > 1 else f"only {choices[0]}"
    if origin in (Union, types.UnionType):
        parts = [_allowed(part, metadata) for part in arguments if part is not type(None)]
        return " or ".join(parts + ["null"] * (type(None) in arguments))
    if origin in (tuple, list, set, frozenset, Sequence):
        if origin is tuple and Ellipsis not in arguments:
            parts = [_allowed(part) for part in arguments]
            told = f"each {parts[0]}" if len(set(parts)) == 1 else f"[{', '.join(parts)}]"
            return f"a list of {len(arguments)}: {told}"
        length = _range([_Length(item) for item in metadata]).removeprefix(" of").strip()
        return f"a list{f' ({length} long)' if length else ''} of: {_allowed(arguments[0])}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        fields = annotation.model_fields.items()
        parts = [f"{name}: {_allowed(field.annotation, field.metadata)}" for name, field in fields]
        return f"{{{', '.join(parts)}}}"
    names = {bool: "true or false", int: "an integer", float: "a number", str: "text", Path: "a path"}
    return names.get(annotation, getattr(annotation, "__name__", str(annotation))) + _range(metadata)


class _Length:
    """A length bound read as a bound of a number."""

    def __init__(self, bound: Any) -> None:
        self.ge = getattr(bound, "min_length", None)
        self.le = getattr(bound, "max_length", None)


def _shown(value: Any) -> str:
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
        alternatives = _models(field.annotation)
        tag = field.discriminator if isinstance(field.discriminator, str) else None
        if tag:
            choices = [c for part in alternatives for c in _choices(part.model_fields[tag].annotation)]
            allowed = f"one of {', '.join(choices)}"
            yield Setting(
                f"{key}.{tag}", allowed, _shown(getattr(default, tag, default)), field.description or ""
            )
        for part in alternatives:
            given = default if isinstance(default, part) else None
            choice = ", ".join(_choices(part.model_fields[tag].annotation)) if tag else ""
            for row in _settings(part, given, f"{key}."):
                if row.key != f"{key}.{tag}":
                    yield replace(row, only_with=row.only_with or (f"{key}.{tag} = {choice}" if tag else ""))
        if not alternatives:
            yield Setting(
                key, _allowed(field.annotation, field.metadata), _shown(default), field.description or ""
            )


def describe(config_type: type[BaseModel], values: BaseModel | None = None) -> list[Setting]:
    """Lists every key of a configuration, nested ones dotted; defaults are those of `values` if given.

    A part that is one of several models lists the keys of each.
    """
    return list(_settings(config_type, values, ""))


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
        for part in _models(field.annotation):
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
            models = _models(field.annotation)
        elif isinstance(item, int) and field is not None and (inside := _item_models(field.annotation)):
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
    return {choice for field in model.model_fields.values() for choice in _choices(field.annotation)}


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
        return SemcomError(f"{key} = {_shown(value)}: {fault['msg']}")
    if kind == "literal_error" and _choices(field.annotation):
        return SemcomError(_not_a_choice(key, value, _choices(field.annotation)))
    if kind == "missing" and isinstance(fault["loc"][-1], int):
        kind = "too_short"
    if keys and isinstance(keys[-1], int):
        allowed = _allowed(_item_models(field.annotation)[0])
    elif groups := _models(field.annotation):
        allowed = f"settings of its own, such as {key}.{next(iter(groups[0].model_fields))}"
    else:
        allowed = _allowed(field.annotation, field.metadata)
    return SemcomError(
        f"{key} = {_shown(value)} {_FAULTS.get(kind, 'has the wrong type')}: it takes {allowed}"
    )


def _not_a_choice(key: str, value: Any, choices: Sequence[str]) -> str:
    near = difflib.get_close_matches(str(value), choices, n=1)
    hint = f" (did you mean {near[0]}?)" if near else ""
    return f"{key} = {_shown(value)} is not a choice: it takes one of {', '.join(choices)}{hint}"


def plain(config: BaseModel) -> dict[str, Any]:
    """Returns a configuration as plain dicts, lists, numbers and text, as JSON would hold it."""
    values: dict[str, Any] = json.loads(json.dumps(config.model_dump(), default=str))
    return values


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
    given = ", ".join(f"{key} = {_shown(value)}" for key, value in overrides.items())
    try:
        # JSON, so that a list may stand for a tuple though the check is strict (true is no integer).
        return model.model_validate_json(json.dumps(data), strict=True)
    except ValidationError as error:
        raise _refusal(model, data, error, given) from None
