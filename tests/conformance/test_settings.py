"""Settings: what is read and applied, and the one line that each bad one is refused with."""

from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, model_validator

from scenarios.keys import describe, plain
from scenarios.settings import apply_overrides, input_files, parse_axes, parse_overrides
from semcom.contracts import SemcomError

FROZEN = ConfigDict(frozen=True, extra="forbid")


class Quantiser(BaseModel):
    model_config = FROZEN
    bits: int = Field(8, ge=1, le=16, description="bits per dimension")
    kind: Literal["uniform", "entropy"] = "uniform"


class Lossless(BaseModel):
    model_config = FROZEN
    kind: Literal["ideal"] = "ideal"


class Lossy(BaseModel):
    model_config = FROZEN
    kind: Literal["erasure"] = "erasure"
    probability: float = Field(0.1, ge=0, lt=1)


class Box(BaseModel):
    model_config = FROZEN
    size_m: tuple[float, float]
    material: Literal["wood", "metal"] = "wood"


class Config(BaseModel):
    model_config = FROZEN
    codec: Quantiser = Quantiser()
    link: Annotated[Lossless | Lossy, Field(discriminator="kind")] = Lossless()
    ratio: float = Field(0.5, gt=0)
    weights: tuple[float, float] = (1.0, 2.0)
    intervals: tuple[Annotated[int, Field(ge=1)], ...] = Field((1, 2), min_length=1)
    name: str | None = None
    fast: bool = False
    boxes: tuple[Box, ...] = (Box(size_m=(1.0, 2.0)),)

    @model_validator(mode="after")
    def _names_are_for_slow_runs(self) -> "Config":
        if self.fast and self.name:
            raise ValueError("a fast run has no name")
        return self


def applied(*assignments: str) -> Config:
    return apply_overrides(Config(), parse_overrides(assignments))


@pytest.mark.parametrize(
    ("assignment", "key", "value"),
    [
        ("codec.bits=4", "codec.bits", 4),
        ("codec.kind=entropy", "codec.kind", "entropy"),
        ("link=erasure", "link.kind", "erasure"),
        ("ratio=1e-3", "ratio", 1e-3),  # text in YAML 1.1
        ("ratio=3", "ratio", 3.0),
        ("weights=[3, 4.5]", "weights", (3.0, 4.5)),
        ("intervals=[7]", "intervals", (7,)),
        ("name=no", "name", "no"),  # false in YAML 1.1
        ("name=null", "name", None),
        ("name='12'", "name", "12"),
        ("name=a=b", "name", "a=b"),
        ("fast=true", "fast", True),
    ],
)
def test_a_setting_arrives_and_leaves_the_rest_alone(assignment: str, key: str, value: Any):
    config = applied(assignment)
    found: Any = config
    for part in key.split("."):
        found = getattr(found, part)
    assert found == value
    assert type(found) is type(value)
    unchanged = plain(Config())
    changed = plain(config)
    head = key.split(".")[0]
    assert {k: v for k, v in changed.items() if k != head} == {
        k: v for k, v in unchanged.items() if k != head
    }


def test_another_alternative_drops_the_settings_of_the_former():
    lossy = applied("link.kind=erasure", "link.probability=0.25")
    assert lossy.link == Lossy(probability=0.25)
    assert apply_overrides(lossy, {"link.kind": "ideal"}).link == Lossless()
    assert apply_overrides(lossy, {"link.kind": "erasure"}).link == Lossy(probability=0.25)


@pytest.mark.parametrize(
    ("assignments", "parts"),
    [
        (["codec.bitz=4"], ["codec.bitz", "did you mean codec.bits"]),
        (["bits=4"], ["bits", "did you mean codec.bits"]),
        (["zzz.yyy=4"], ["zzz.yyy", "codec, link, ratio"]),
        (["codec=4"], ["codec is a group", "codec.bits"]),
        (["codec.bits=99"], ["codec.bits = 99 is out of range", "an integer from 1 to 16"]),
        (["codec.bits=many"], ["codec.bits = many has the wrong type", "an integer from 1 to 16"]),
        (["codec.bits=true"], ["codec.bits = true has the wrong type"]),
        (["codec.bits=4.0"], ["codec.bits = 4.0 has the wrong type"]),
        (
            ["codec.kind=uniforn"],
            ["codec.kind = uniforn is not a choice", "uniform, entropy", "mean uniform?"],
        ),
        (["link.kind=erasur"], ["link.kind = erasur is not a choice", "ideal, erasure", "mean erasure?"]),
        (["link.probability=0.2"], ["link.probability", "it takes link.kind = erasure"]),
        (["link.kind=erasure", "link.probability=1"], ["link.probability = 1", "of at least 0 and below 1"]),
        (["ratio=0"], ["ratio = 0 is out of range", "a number above 0"]),
        (["ratio=.nan"], ["ratio = NaN is out of range"]),
        (["weights=[1]"], ["weights = [1] has the wrong length", "a list of 2"]),
        (["weights=[1, a]"], ['weights = [1, "a"] has the wrong type']),
        (["intervals=[0]"], ["intervals = [0] is out of range", "an integer of at least 1"]),
        (["intervals=[]"], ["intervals = [] has the wrong length", "at least 1 long"]),
        (["intervals=3"], ["intervals = 3 has the wrong type"]),
        (
            ["boxes=[{size_m: [1, 2]}, {size_m: [1]}]"],
            ["boxes[1].size_m = [1] has the wrong length", "list of 2"],
        ),
        (["boxes=[{material: metal}]"], ["boxes[0].size_m", "is missing", "list of 2"]),
        (["boxes=[{size_m: [1, 2], material: gold}]"], ["boxes[0].material = gold is not", "wood, metal"]),
        (["boxes=[{size_m: [1, 2], colour: red}]"], ["boxes[0].colour does not belong", "leave it out"]),
        (["boxes=[3]"], ["boxes[0] = 3 has the wrong type", "{size_m: a list of 2", "material: one of wood"]),
        (["boxes={}"], ["boxes = {} has the wrong type", "a list of: {size_m"]),
        (["fast=yes"], ["fast = yes has the wrong type", "true or false"]),
        (["fast=true", "name=x"], ["a fast run has no name", "fast = true, name = x"]),
        (["ratio=1", "ratio=2"], ["ratio is given twice"]),
        (["ratio"], ["'ratio' is not a setting", "key=value"]),
        (["ratio="], ["'ratio=' is not a setting"]),
        (["ratio=[1"], ["ratio = [1 can't be read"]),
    ],
)
def test_a_bad_setting_is_refused_in_one_line(assignments: list[str], parts: list[str]):
    with pytest.raises(SemcomError) as refusal:
        applied(*assignments)
    text = str(refusal.value)
    assert "\n" not in text
    for part in parts:
        assert part in text


def test_axes_are_read_in_their_order():
    axes = parse_axes(["ratio=1,0.5", "codec.kind=entropy,uniform", "weights=[1,2],[3,4]"])
    assert list(axes.items()) == [
        ("ratio", [1, 0.5]),
        ("codec.kind", ["entropy", "uniform"]),
        ("weights", [[1, 2], [3, 4]]),
    ]


@pytest.mark.parametrize("axes", [["ratio=1,1.0"], ["ratio=1", "ratio=2"], ["ratio"], ["ratio=[1"]])
def test_a_bad_axis_is_refused(axes: list[str]):
    with pytest.raises(SemcomError):
        parse_axes(axes)


def test_every_listed_key_can_be_set_to_its_default():
    listed = describe(Config, applied("link.kind=erasure", "codec.bits=4"))
    assert {row.key: row.default for row in listed} == {
        "codec.bits": "4",
        "codec.kind": "uniform",
        "link.kind": "erasure",
        "link.probability": "0.1",
        "ratio": "0.5",
        "weights": "[1.0, 2.0]",
        "intervals": "[1, 2]",
        "name": "null",
        "fast": "false",
        "boxes": '[{"size_m": [1.0, 2.0], "material": "wood"}]',
    }
    again = applied(*(f"{row.key}={row.default}" for row in listed))
    assert again == applied("link.kind=erasure", "codec.bits=4")
    by_key = {row.key: row for row in listed}
    assert by_key["codec.bits"].description == "bits per dimension"
    assert by_key["link.probability"].only_with == "link.kind = erasure"


def test_a_part_and_its_kind_are_not_both_given():
    with pytest.raises(SemcomError, match=r"link and link\.kind are the same setting"):
        applied("link=erasure", "link.kind=ideal")


class Recording(BaseModel):
    model_config = FROZEN
    path: Path = Field(description="a file")
    also: Path | None = None


class Experiment(BaseModel):
    model_config = FROZEN
    scene: Path = Path("scene.xml")
    channel: Recording = Recording(path=Path("csi.h5"))
    name: str = "a.h5"


def test_the_files_that_a_configuration_reads_are_its_paths():
    config = apply_overrides(Experiment(), {"channel.path": "other.h5"})
    assert input_files(config) == [Path("scene.xml"), Path("other.h5")]
    assert plain(config)["channel"] == {"path": "other.h5", "also": None}
    assert next(row for row in describe(Experiment) if row.key == "channel.path").allowed == "a path"
