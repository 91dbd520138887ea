"""Where data comes from: a behavior by its name, a data set of the test bed, a file, or one on the Hugging Face hub."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from trimtab.data import truthful
from trimtab.data.builtin import asking, behavior, built_in
from trimtab.data.formats import SUFFIXES, read
from trimtab.data.pairs import Content
from trimtab.errors import DataError, UnknownName, first_line
from trimtab.organisms import sets as town


def content(source: str, form: str | None) -> Content:
    """What a name, a path or an `hf:` address stands for; see `Dataset.load`."""
    if form is not None and form != "answers" and form != "choices":
        raise UnknownName("form", form, ("answers", "choices"))
    if source in built_in():
        return behavior(source, form)
    if source == truthful.NAME:
        return replace(read(truthful.FILE, form), ask=asking(source))
    if source.startswith(town.TOWN):
        return town.content(source, form=form)
    path = _from_hub(source[3:]) if source.startswith("hf:") else Path(source).expanduser()
    if path.suffix not in SUFFIXES and not path.exists():
        raise UnknownName(
            "data set", source, (*built_in(), truthful.NAME, *town.names()), do="or give a .jsonl, .json or .csv file"
        )
    return replace(read(path, form), ask=asking(path.stem))


def _from_hub(address: str) -> Path:
    """A file of a data set repository on the Hugging Face hub: `owner/name/path`, or `owner/name` where it holds one
    file.
    """
    from huggingface_hub import hf_hub_download, list_repo_files

    owner, _, rest = address.partition("/")
    name, _, inner = rest.partition("/")
    repo = f"{owner}/{name}"
    try:
        if not inner:
            readable = [f for f in list_repo_files(repo, repo_type="dataset") if Path(f).suffix in SUFFIXES]
            if len(readable) != 1:
                raise DataError(
                    f"hf:{repo} holds {len(readable)} readable files",
                    given=readable[:20],
                    do=f"name one: hf:{repo}/PATH",
                )
            inner = readable[0]
        return Path(hf_hub_download(repo, inner, repo_type="dataset"))
    except (OSError, ValueError) as problem:
        raise DataError(
            f"cannot fetch hf:{address}", given=first_line(problem), do="check the name and the network"
        ) from problem
