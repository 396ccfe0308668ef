"""Scalars mean what a reader expects; text that could surprise is refused."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robustcli.recipes.strict_yaml import LONGEST, BadYaml, parse, render


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3),
        ("5e-4", 5e-4),
        ("1E5", 1e5),
        ("-.5", -0.5),
        ("2.", 2.0),
        ("0.1", 0.1),
        ("7", 7),
        ("-12", -12),
        ("000", "000"),  # a paper, not zero
        ("2/255", "2/255"),
        ("no", "no"),  # YAML 1.1 reads false
        ("on", "on"),
        ("1:30", "1:30"),  # YAML 1.1 reads 90
        ("2024-01-01", "2024-01-01"),
        ("true", True),
        ("null", None),
        ("~", None),
        ("", None),
        ("e5", "e5"),
        ("1e", "1e"),
        ("'1e-3'", "1e-3"),
        (".inf", math.inf),
        ("[l1, linf]", ["l1", "linf"]),
        ("{a: 1e-3, b: {c: x}}", {"a": 1e-3, "b": {"c": "x"}}),
    ],
)
def test_scalars(text: str, value: object) -> None:
    found = parse(text)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3", "line 3: key 'a' is given twice"),
        ("m:\n  x: 1\n  x: 1", "line 3: key 'm.x' is given twice"),
        ("a: &n 1\nb: *n", "aliases"),
        ("&n [*n]", "aliases"),
        ("a: [1, 2", "line"),
        ("a: b: c", "line 1"),
        ("\tx: 1", "line 1"),
        ("? [1]\n: 2", "a key must be plain text"),
        ("a: !!python/object/apply:os.system [echo]", "tag"),
        ("a: !!python/name:os.system", "tag"),
        ("a: 1\n---\nb: 2", "line"),
        ("a: \x00", "position 3"),
    ],
)
def test_refused(text: str, message: str) -> None:
    with pytest.raises(BadYaml, match="(?s).*" + message) as caught:
        parse(text)
    assert "\n" not in str(caught.value)


def test_depth_and_length_are_bounded() -> None:
    for depth in (60, 900, 5_000):
        with pytest.raises(BadYaml):
            parse("[" * depth + "]" * depth)
    with pytest.raises(BadYaml, match="longer"):
        parse("a" * (LONGEST + 1))


def test_texts_that_look_like_other_things_are_quoted() -> None:
    for text in ("000", "1e-3", "no", "1", "null", "", "2024-01-01", "1:30", "a: b", "# c", "'", "- x"):
        assert parse(render({"key": text})) == {"key": text}
    assert render({"paper": "000"}) == "{paper: '000'}\n"


_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
_PLAIN = st.none() | st.booleans() | st.integers(-(10**12), 10**12) | st.floats(allow_nan=False) | _TEXT
_DATA = st.recursive(
    _PLAIN, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_TEXT, inner, max_size=4), max_leaves=12
)


@settings(max_examples=150, deadline=None)
@given(_DATA)
def test_render_then_parse_is_the_identity(data: object) -> None:
    assert parse(render(data)) == data
