"""A stack in one line: read, written back, and refused with a caret."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pico import pico
from trimtab import Intervention, Provenance, SteeringVector, Use, steer
from trimtab.errors import SteerError, TrimtabError, UnknownName, VectorError
from trimtab.steering.notation import LEVELS, Notation, Term, beyond_range, vector_of

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
    known = vectors()
    for text, n in (
        ("pirate", 0),
        ("3 pirate", 0),
        ("3.1 pirate", 1),
        ("-1 pirate", 1),
        ("0 pirate", 0),
        ("9 formal", 0),
    ):
        doses = [(term.name, term.multiplier(known[term.name])) for term in Notation.parse(text).terms]
        assert len(beyond_range(doses, known)) == n, text


def test_a_line_steers_as_its_parts_do() -> None:
    lm, known = pico("llama"), vectors()
    tokens = lm.tokens(["Do you like tea ?"])
    with steer(lm, *Notation.parse("0.6 pirate - formal @ everywhere").stack(known)):
        one = lm.logits(tokens)
    a = Intervention(known["pirate"], multiplier=0.6, positions="everywhere")
    b = Intervention(known["formal"], multiplier=-1.0, positions="everywhere")
    with steer(lm, a, b):
        assert torch.equal(one, lm.logits(tokens))


def saved(folder: Path, vs: dict[str, SteeringVector]) -> Path:
    for name, v in vs.items():
        v.save(folder / f"{name}.safetensors")
    return folder


def test_a_line_as_one_vector_steers_as_the_stack_does(tmp_path: Path) -> None:
    lm = pico("llama")
    g = torch.Generator().manual_seed(0)
    made = Provenance.of(lm)
    nulls = {"null 0": {1: torch.randn(32, generator=g), 2: torch.randn(32, generator=g)}}
    vs = {
        "tea": SteeringVector({1: torch.randn(32, generator=g)}, replace(made, trained_on=("a",)), use=Use((1,), 2.0)),
        "sun": SteeringVector(
            {k: torch.randn(32, generator=g) for k in (1, 2)}, replace(made, trained_on=("b",)), nulls=nulls,
            use=Use((1, 2)),
        ),
    }  # fmt: skip
    line = "tea - 0.5 sun"
    folder = saved(tmp_path, vs)
    one = vector_of(line, folder)
    assert one.layers == (1, 2) and one.use == Use((1, 2)) and one.made.trained_on == ("a", "b") and not one.apart
    assert not one.nulls and one.made.method["vectors"] == {name: v.hash for name, v in vs.items()}
    text = ["the rain and the sun"]
    with steer(lm, *Notation.parse(line).stack(vs)):
        apart = lm.logprobs(text, ["Do you like tea"])
    with steer(lm, one):
        together = lm.logprobs(text, ["Do you like tea"])
    torch.testing.assert_close(together, apart, atol=1e-4, rtol=1e-4)
    twice = vector_of("2 sun + sun", folder)
    torch.testing.assert_close(twice.nulls["null 0"][1], 3 * nulls["null 0"][1])
    assert vector_of(folder / "sun.safetensors").hash == vs["sun"].hash


def test_what_cannot_be_one_vector_is_refused(tmp_path: Path) -> None:
    made = Provenance.of(pico("llama"))
    v = torch.ones(32)
    folder = saved(tmp_path, {
        **vectors(),
        "cut": SteeringVector({1: v}, made, use=Use((1,), operator={"name": "ablate"})),
        "wide": SteeringVector({1: torch.ones(64)}, use=Use((1,))),
    })  # fmt: skip
    for line, words in (
        ("formal + cut", "always added"),
        ("formal + pirate", "different positions"),
        ("formal + wide", "different models"),
        ("formal + nobody", "unknown vector"),
        ("formal formal", "not understood"),
    ):
        with pytest.raises(TrimtabError, match=words):
            vector_of(line, folder)
    assert vector_of("formal + pirate @ everywhere", folder).use == Use((1, 2), 1.0, "everywhere")
    (folder / "broken.safetensors").write_bytes(b"not read, unless it is named")
    assert vector_of("2 formal", folder).norm() == {2: pytest.approx(32**0.5)}
    with pytest.raises(VectorError, match="no vectors"):
        vector_of("formal", folder / "nowhere")
