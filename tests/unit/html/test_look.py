from __future__ import annotations

import math
import re
from collections.abc import Sequence
from itertools import combinations

import pytest

from bulkfetch.billing.details import PROVIDERS
from bulkfetch.html.look import BY_DAY, BY_NIGHT, SHARED, colours_of, style

Rgb = tuple[float, float, float]
# How people see colours who lack one kind of cone (Machado, Oliveira, Fernandes 2009), linear RGB.
SIGHTS = {
    "full": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "protanopia": (
        (0.152286, 1.052583, -0.204868),
        (0.114503, 0.786281, 0.099216),
        (-0.003882, -0.048116, 1.051998),
    ),
    "deuteranopia": (
        (0.367322, 0.860646, -0.227968),
        (0.280085, 0.672501, 0.047413),
        (-0.011820, 0.042940, 0.968881),
    ),
    "tritanopia": (
        (1.255528, -0.076749, -0.178779),
        (-0.078411, 0.930809, 0.147602),
        (0.004733, 0.691367, 0.303900),
    ),
}


def linear(colour: str) -> Rgb:
    values = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    red, green, blue = (
        each / 12.92 if each <= 0.04045 else ((each + 0.055) / 1.055) ** 2.4 for each in values
    )
    return red, green, blue


def seen(colour: Rgb, sight: Sequence[Sequence[float]]) -> Rgb:
    red, green, blue = (
        min(1, max(0, sum(part * value for part, value in zip(row, colour, strict=True))))
        for row in sight
    )
    return red, green, blue


def oklab(colour: Rgb) -> Rgb:
    red, green, blue = colour
    long = (0.4122214708 * red + 0.5363325363 * green + 0.0514459929 * blue) ** (1 / 3)
    middle = (0.2119034982 * red + 0.6806995451 * green + 0.1073969566 * blue) ** (1 / 3)
    short = (0.0883024619 * red + 0.2817188376 * green + 0.6299787005 * blue) ** (1 / 3)
    return (
        0.2104542553 * long + 0.7936177850 * middle - 0.0040720468 * short,
        1.9779984951 * long - 2.4285922050 * middle + 0.4505937099 * short,
        0.0259040371 * long + 0.7827717662 * middle - 0.8086757660 * short,
    )


def contrast(one: str, other: str) -> float:
    light, dark = sorted(
        (
            0.2126 * red + 0.7152 * green + 0.0722 * blue
            for red, green, blue in map(linear, (one, other))
        ),
        reverse=True,
    )
    return (light + 0.05) / (dark + 0.05)


def variables(scheme: str) -> dict[str, str]:
    """The colours that the style sheet sets, by day or by night."""
    day, night = re.findall(r":root\{([^}]*--back[^}]*)\}", style())
    return dict(re.findall(r"--(\w+):(#[0-9a-f]{6})", day if scheme == "day" else night))


@pytest.mark.parametrize("colours", [BY_DAY, BY_NIGHT], ids=["day", "night"])
@pytest.mark.parametrize("sight", SIGHTS)
def test_any_two_colours_can_be_told_apart(colours: Sequence[str], sight: str) -> None:
    for one, other in combinations(colours, 2):
        apart = math.dist(*(oklab(seen(linear(each), SIGHTS[sight])) for each in (one, other)))
        assert apart > 0.08, (one, other)


@pytest.mark.parametrize("scheme", ["day", "night"])
def test_colours_and_texts_stand_out_from_their_background(scheme: str) -> None:
    found = variables(scheme)
    for name, colour in found.items():
        if re.fullmatch(r"c\d", name):
            assert contrast(colour, found["back"]) >= 3, name
        elif name in ("text", "muted", "bad", "note", "good"):
            assert contrast(colour, found["back"]) >= 4.5, name
            assert contrast(colour, found["card"]) >= 4.5, name
    assert contrast(found["c0"], found["back"]) >= 4.5, "links have this colour"


def test_a_provider_has_one_colour_whatever_others_there_are() -> None:
    alone = {name: colours_of([name])[name] for name in PROVIDERS}
    assert colours_of([*PROVIDERS, "x", "y"]) == alone | {"x": SHARED, "y": SHARED}
    assert len({*alone.values(), SHARED}) == len(PROVIDERS) + 1
    assert colours_of(["x"])["x"] not in {*alone.values()}
