"""Conditions, and shares in words."""

from __future__ import annotations

from trimtab.statistics.counts import share
from trimtab.studies.conditions import Condition
from trimtab.studies.pages.findings import spread, told


def test_words_for_shares() -> None:
    assert told(share([True, False, True, False])).startswith("50% (") and told(share([])) == "nothing to count"
    assert spread([0.1, 0.2, 0.6]) == "20% (10% to 60%, 3 vectors)"


def test_a_condition_is_a_value_with_a_label() -> None:
    harm = Condition("harm", "0")
    assert str(harm) == "harm 0" and harm.alone and not harm.but(how="in tandem").alone
    assert str(harm.but(how="in tandem")) == "harm 0, in tandem" and str(harm.at(0.5)) == "harm 0 at 0.5"
    assert str(Condition("promote", "1", layer=3)) == "promote 1 at 3"
    assert (
        harm.at(0.5).kind == "harm"
        and harm.at(0.5).strength == 0.5
        and len({harm, Condition("harm", "0"), harm.at(1.0)}) == 2
    )
