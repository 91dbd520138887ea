"""A stack in one line: read, written back, and refused with a caret."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pico import pico
from trimtab import Intervention, Provenance, SteeringVector, Use, steer
from trimtab.errors import SteerError, UnknownName
from trimtab.steering.notation import LEVELS, Notation, Term, beyond_range

NAMES = st.from_regex(r"[A-Za-z_][\w.-]{0,8}", fullmatch=True).filter(lambda name: name.isascii())
FACTORS = st.floats(0.001, 1e5).map(lambda x: float(f"{x:.6g}")).flatmap(lambda x: st.sampled_from((x, -x)))
TERMS = st.builds(Term, FACTORS, NAMES, st.sampled_from(("", *LEVELS)))
WHERE = st.sampled_from(("", "answer", "everywhere", "last_k(3)", "(span('user') & ~last)"))


def vectors() -> dict[str, SteeringVector]:
    made = Provenance.of(pico("llama"))
    use = Use((1,), 2.0, "generated", ship=(0.5, 3.0))
    return {
        "pirate": SteeringVector({1: torch.ones(32)}, made, use=use),
        "formal": SteeringVector({2: torch.full((32,), 0.5)}, made),
    }


@given(st.lists(TERMS, min_size=1, max_size=5), WHERE)
def test_what_is_written_is_read_back(terms: list[Term], where: str) -> None:
    one = Notation(tuple(terms), where)
    assert Notation.parse(str(one)) == one


@pytest.mark.parametrize(
    ("text", "terms", "where"),
    [
        ("pirate", [(1, "pirate", "ship")], ""),
        (
            "0.6 pirate + formal - 0.3 brevity @ answer",
            [(0.6, "pirate", ""), (1, "formal", "ship"), (-0.3, "brevity", "")],
            "answer",
        ),
        ("-pirate", [(-1, "pirate", "ship")], ""),
        ("- 2 a-b.c", [(-2, "a-b.c", "")], ""),
        ("0.5 pirate@strongest@everywhere", [(0.5, "pirate", "strongest")], "everywhere"),
        ("0 pirate", [(0, "pirate", "")], ""),
        ("1e3 pirate", [(1000, "pirate", "")], ""),
        ("\N{MINUS SIGN}.5 pirate", [(-0.5, "pirate", "")], ""),
    ],
)
def test_lines(text: str, terms: list[tuple[float, str, str]], where: str) -> None:
    assert Notation.parse(text) == Notation(tuple(Term(*t) for t in terms), where)


@pytest.mark.parametrize(
    ("text", "under"),
    [
        ("0.6 pirate formal", "formal"),
        ("pirate + ", ""),
        ("pirate + + formal", "+ formal"),
        ("pirate @ nowhere", "nowhere"),
        ("pirate@shop", "pirate@shop"),
        ("2 3 pirate", "3 pirate"),
        ("1e9 pirate", "1e9 pirate"),
        ("pirate; import os", "; import os"),
        ("../etc/passwd", "../etc/passwd"),
        ("pirate @ __import__('os')", "__import__('os')"),
        ("nan pirate", "pirate"),
    ],
)
def test_a_caret_stands_under_the_place(text: str, under: str) -> None:
    with pytest.raises(SteerError) as problem:
        Notation.parse(text)
    lines = str(problem.value).splitlines()
    shown = next(k for k, line in enumerate(lines) if line.strip() == "^")
    assert lines[shown - 1] == f"  {text}"
    assert text[lines[shown].index("^") - 2 :] == under


@pytest.mark.parametrize("text", ["", "  ", "a" * 501, " + ".join(["a"] * 17)])
def test_no_line(text: str) -> None:
    with pytest.raises(SteerError):
        Notation.parse(text)


def test_doses_are_those_of_the_file() -> None:
    known = vectors()
    for text, m, where in (
        ("pirate", 2.0, "generated"),
        ("0.5 pirate@ship", 1.0, "generated"),
        ("pirate@weakest", 0.5, "generated"),
        ("-pirate@strongest @ answer", -3.0, "from_last_prompt_token"),
        ("0.7 pirate @ everywhere", 0.7, "everywhere"),
        ("formal", 1.0, "from_last_prompt_token"),
    ):
        (iv,) = Notation.parse(text).stack(known)
        assert (iv.multiplier, str(iv.positions)) == (m, where), text
    with pytest.raises(SteerError, match="no range"):
        Notation.parse("formal@strongest").stack(known)
    with pytest.raises(UnknownName, match="did you mean 'pirate'"):
        Notation.parse("pirat").stack(known)


def test_what_is_outside_its_range_is_told() -> None:
    for text, n in (
        ("pirate", 0),
        ("3 pirate", 0),
        ("3.1 pirate", 1),
        ("-1 pirate", 1),
        ("0 pirate", 0),
        ("9 formal", 0),
    ):
        assert len(beyond_range(Notation.parse(text).terms, vectors())) == n, text


def test_a_line_steers_as_its_parts_do() -> None:
    lm, known = pico("llama"), vectors()
    tokens = lm.tokens(["Do you like tea ?"])
    with steer(lm, *Notation.parse("0.6 pirate - formal @ everywhere").stack(known)):
        one = lm.logits(tokens)
    a = Intervention(known["pirate"], multiplier=0.6, positions="everywhere")
    b = Intervention(known["formal"], multiplier=-1.0, positions="everywhere")
    with steer(lm, a, b):
        assert torch.equal(one, lm.logits(tokens))
