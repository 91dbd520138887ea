"""A judge behind a server."""

from __future__ import annotations

import math
from typing import Any

import pytest

from trimtab.answers.endpoint import Endpoint
from trimtab.answers.judges import Rating, Rubric

TOY = Rubric("toy", 1, "Do you like {answer} ?", {"1": 1.0, "2": 2.0, "10": 10.0}, {"12": "refusal"}, mass=0.25)


def reply(content: str, top: dict[str, float] | None) -> Any:
    """What a server would send."""

    def made(**fields: Any) -> Any:
        return type("Made", (), fields)()

    logprobs = (
        None
        if top is None
        else made(content=[made(top_logprobs=[made(token=t, logprob=math.log(p)) for t, p in top.items()])])
    )
    return made(
        usage=made(prompt_tokens=1000, completion_tokens=10),
        choices=[made(logprobs=logprobs, message=made(content=content))],
    )


def test_a_servers_reply_is_read_by_distribution_or_by_text() -> None:
    judge = Endpoint(TOY, "m", "http://127.0.0.1:1/v1", prices=(1.0, 10.0))
    spread = judge._read(reply("1", {"1": 0.5, " 1": 0.1, "2": 0.2}))
    assert spread.score == pytest.approx((0.6 + 0.4) / 0.8) and spread.mass == pytest.approx(0.8)
    assert (
        judge._read(reply("**10** of ten", None)) == Rating(10.0, 1.0)
        and judge._read(reply("12", None)).label == "refusal"
    )
    with pytest.raises(ValueError, match="no rating"):
        judge._read(reply("well", None))
    assert judge.account.sent == 4000 and judge.account.price == pytest.approx((4000 + 400) / 1e6)
