"""Stages of units: in one go, resumed, and in shards."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from trimtab.progress import Progress, silent
from trimtab.runs import Run
from trimtab.stages import Every, Stage, Unit, carry_out


class Toy:
    """Squares a few numbers, chooses the largest, and adds it to each."""

    def __init__(self, folder: Path, numbers: tuple[int, ...] = (3, 1, 2)) -> None:
        self.run, self.numbers, self.worked = Run.create(folder), numbers, list[str]()
        self.run.claim("study", {"plan": {"numbers": list(numbers)}})

    def stages(self) -> Iterator[Stage]:
        yield Stage("square", [Unit(f"{n}", {"n": n}, self.work(f"square/{n}", n * n)) for n in self.numbers])
        largest = max(self.run.read(f"square/{n}.json") for n in self.numbers)
        yield Stage(
            "add", [Unit(f"{n}", {"largest": largest}, self.work(f"add/{n}", n + largest)) for n in self.numbers]
        )
        self.run.write("results.json", {"largest": largest})

    def work(self, name: str, value: int):
        def work(progress: Progress) -> None:
            self.worked.append(name)
            progress(1, 1)
            self.run.write(f"{name}.json", value)

        return work

    def carried_out(self, *shard: int) -> bool:
        return carry_out(self.stages(), self.run, silent, Every(*shard) if shard else None)


def test_a_study_runs_whole_and_again_without_work(tmp_path: Path) -> None:
    toy = Toy(tmp_path)
    assert toy.carried_out() and len(toy.worked) == 6 and toy.run.read("results.json") == {"largest": 9}
    again = Toy(tmp_path)
    assert again.carried_out() and again.worked == []


def test_an_interrupted_stage_repeats_no_finished_unit(tmp_path: Path) -> None:
    toy = Toy(tmp_path)
    stop = iter([False, True])

    def watch(name: str) -> Progress:
        if next(stop):
            raise KeyboardInterrupt
        return silent(name)

    with pytest.raises(KeyboardInterrupt):
        carry_out(toy.stages(), toy.run, watch)
    again = Toy(tmp_path)
    assert toy.worked == ["square/3"] and again.carried_out()
    assert again.worked == ["square/1", "square/2", "add/3", "add/1", "add/2"]


def test_shards_share_every_stage_and_leave_the_same_folder(tmp_path: Path) -> None:
    one, two = Toy(tmp_path / "shared"), Toy(tmp_path / "shared")
    assert not one.carried_out(0, 2) and one.worked == ["square/3", "square/2"], "others have to finish first"
    assert not two.carried_out(1, 2) and two.worked == ["square/1", "add/1"]
    assert one.carried_out(0, 2) and one.worked[2:] == ["add/3", "add/2"]
    whole = Toy(tmp_path / "whole")
    assert whole.carried_out()
    for name in ("square/1.json", "add/3.json", "results.json"):
        assert (tmp_path / "shared" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_another_plan_or_choice_is_another_unit(tmp_path: Path) -> None:
    assert Toy(tmp_path / "a").carried_out()
    units = [(tmp_path / "a" / "units" / f"{stage}.jsonl").read_text() for stage in ("square", "add")]
    assert Toy(tmp_path / "b", (4, 1, 2)).carried_out()
    for stage, text in zip(("square", "add"), units, strict=True):
        other = (tmp_path / "b" / "units" / f"{stage}.jsonl").read_text()
        hashes = [{line for line in t.splitlines() if "complete" in line} for t in (text, other)]
        assert len(hashes[0]) == 3 and not hashes[0] & hashes[1]
