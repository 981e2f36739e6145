"""The validator that `ostwire.cddl` is checked with, and that it lets nothing pass unseen."""

from __future__ import annotations

import pytest

from ostnode.codec import encode
from tests.support.cddl import CddlError, MismatchError, Validator, parse


def takes(text: str, value: object) -> bool:
    """Whether rule x of the text matches the value."""
    try:
        Validator(parse(text)).check("x", value)
    except MismatchError:
        return False
    return True


@pytest.mark.parametrize(
    ("text", "good", "bad"),
    [
        ("x = 1", [1], [2, True, "1", None]),
        ("x = -1", [-1], [1]),
        ('x = "a"', ["a"], ["b", b"a"]),
        ("x = h'00ff'", [b"\x00\xff"], [b"", "\x00\xff"]),
        ("x = true", [True], [1, False]),
        ("x = null", [None], [0, False]),
        ("x = 0..5", [0, 5], [-1, 6, True, "0"]),
        ("x = uint", [0, (1 << 64) - 1], [-1, 1 << 64, True]),
        ("x = int", [-(1 << 63), 5], [1.5, True, 1 << 64]),
        ("x = bool", [True, False], [0, None]),
        ("x = tstr", ["", "ü"], [b""]),
        ("x = bstr", [b""], ["", []]),
        ("x = any", [None, {}, 1], []),
        ("x = bstr .size 2", [b"ab"], [b"a", b"abc", "ab"]),
        ("x = bstr .size (1..2)", [b"a", b"ab"], [b"", b"abc"]),
        ("x = tstr .size (1..2)", ["ü"], ["üü", ""]),
        (r'x = tstr .regexp "[\\s\\S]{0,2}"', ["", "\n水"], ["abc", b""]),
        ("x = bstr .cbor y ; with a comment\ny = [uint]",
         [encode([1])], [encode([-1]), b"", b"\xff"]),
        ("x = 1 / 2 / tstr", [1, 2, "x"], [3, None]),
        ("x = y\ny = 0..1 .default 0", [1], [2]),
        ("x = {}", [{}], [{"a": 1}, []]),
        ("x = { a: 1, ? b: 2 }", [{"a": 1}, {"a": 1, "b": 2}], [{}, {"b": 2}, {"a": 1, "b": 3}]),
        ('x = { "a": 1 }', [{"a": 1}], [{"a": 1, "c": 1}]),
        ("x = { 0*2 tstr => 1 }", [{}, {"a": 1, "b": 1}], [{"a": 2}, {"a": 1, "b": 1, "c": 1}]),
        ("x = { + tstr => 1 }", [{"a": 1}], [{}]),
        ("x = []", [[]], [[1], {}]),
        ("x = [0*2 1]", [[], [1, 1]], [[1, 1, 1], [2], {}]),
        ("x = [1*2 1]", [[1]], [[]]),
        ("x = [* bool]", [[], [True] * 9], [[True, 2]]),
        ("x = [a: 1, b: tstr]", [[1, "x"]], [[1], ["x", 1], [1, "x", 1]]),
        ("x = { t: 1, y }\ny = ( a: 1 // b: 2, c: 3 )",
         [{"t": 1, "a": 1}, {"t": 1, "b": 2, "c": 3}],
         [{"t": 1}, {"t": 1, "a": 1, "b": 2, "c": 3}, {"t": 1, "b": 2}]),
        ("x = { y }\ny = ( z.a // z.b )\nz.a = ( k: 1 )\nz.b = ( k: 2 )",
         [{"k": 1}, {"k": 2}], [{"k": 3}]),
    ],
)  # fmt: skip
def test_each_construct_takes_what_rfc_8610_says(text: str, good: list, bad: list) -> None:
    assert [value for value in good if not takes(text, value)] == []
    assert [value for value in bad if takes(text, value)] == []


def test_a_mismatch_says_where() -> None:
    rules = "x = { t: 1, y }\ny = ( call: 1, m: a // call: 2, m: b )\na = { n: [0*9 uint] }\nb = {}"
    with pytest.raises(MismatchError, match=r"^m\.n\.\[1\]: is not uint"):
        Validator(parse(rules)).check("x", {"t": 1, "call": 1, "m": {"n": [1, "2"]}})


@pytest.mark.parametrize(
    "text",
    [
        "x",
        "x = ",
        "x = y",
        "x = [y]",
        "x = { a: y }",
        "x = 1\nx = 2",
        "x = #6.18(bstr)",
        "x = 1.5",
        "x = 0...5",
        "x = bstr .bits y\ny = 1",
        "x = { a: 1",
        "x = (a: 1",
        "x<y> = 1",
        "x /= 1",
        "x = 'text'",
    ],
)
def test_what_is_not_understood_is_no_rule(text: str) -> None:
    with pytest.raises(CddlError):
        parse(text)
