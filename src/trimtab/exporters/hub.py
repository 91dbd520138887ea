"""Vectors on the hub: a repository with the vector's file and its card; revisions pinned, bytes checked."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trimtab.errors import VectorError, first_line
from trimtab.exporters.card import FILE, card, stated
from trimtab.journal import whole
from trimtab.steering.vector import SteeringVector

TIMEOUT = 8.0  # seconds to wait for the hub
REFERENCE = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?(?:#(?P<hash>[0-9a-f]{64}))?")


@dataclass(frozen=True)
class Pushed:
    """Where a vector is now.

    Attributes:
        revision: the commit, 40 hex digits.
        sha256: of the vector's file.
    """

    repo: str
    revision: str
    sha256: str

    @property
    def reference(self) -> str:
        """What `pull` takes, with nothing left open."""
        return f"{self.repo}@{self.revision}#{self.sha256}"


def push(
    path: str | Path, repo: str, *, private: bool = False, endpoint: str | None = None, token: str | None = None
) -> Pushed:
    """Upload a vector's file and its card, in one commit.

    Args:
        path: a file that trimtab wrote.
        repo: "owner/name"; made if it is not there.
        endpoint, token: of the hub; by default as `hf auth login` left them.

    Raises:
        VectorError: not a vector, not a name, or the hub refused, with its reason.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    raw = Path(path).read_bytes() if Path(path).is_file() else b""
    vector = SteeringVector.load(path)
    if REFERENCE.fullmatch(repo) is None or {"@", "#"} & set(repo):
        raise VectorError("not a repository", given=repo, expected='"owner/name"')
    api = HfApi(endpoint=endpoint, token=token)
    files = {FILE: raw, "README.md": card(vector, raw, repo).encode()}
    try:
        api.create_repo(repo, exist_ok=True, private=private)
        operations = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=data) for name, data in files.items()]
        done = api.create_commit(repo, operations, commit_message="A steering vector and its card")
    except Exception as problem:  # of the network and of the hub, in many ways
        raise _refused(f"cannot push to {repo}", problem) from problem
    return Pushed(repo, str(done.oid), hashlib.sha256(raw).hexdigest())


def pull(reference: str, to: str | Path, *, endpoint: str | None = None, token: str | None = None) -> SteeringVector:
    """Download a vector, check its bytes, and keep its file.

    Args:
        reference: "owner/name", with "@revision" (a commit, for the same bytes forever) and "#sha256" if they are
            known. Without a hash the bytes are held to what the repository's card states.

    Raises:
        VectorError: no such repository or revision, bytes of another hash, or not a vector.
    """
    from huggingface_hub import HfApi, hf_hub_download

    parts = REFERENCE.fullmatch(reference)
    if parts is None:
        raise VectorError("not a vector on the hub", given=reference, expected='"owner/name@revision#sha256"')
    try:
        # asked once, so that both files are of one commit
        api = HfApi(endpoint=endpoint, token=token)
        commit = api.model_info(parts["repo"], revision=parts["revision"], timeout=TIMEOUT).sha
        options: dict[str, Any] = {"revision": commit, "endpoint": endpoint, "token": token}
        file = Path(hf_hub_download(parts["repo"], FILE, **options))
        told = parts["hash"] or stated(Path(hf_hub_download(parts["repo"], "README.md", **options)).read_text("utf-8"))
    except Exception as problem:
        raise _refused(f"cannot pull {reference}", problem) from problem
    raw = file.read_bytes()
    real = hashlib.sha256(raw).hexdigest()
    if told != real:
        raise VectorError(
            f"{reference}: the bytes are not what was promised",
            given=f"SHA-256 {real}",
            expected=told or "a card that states the hash",
            do="do not use it; ask whoever gave you the reference",
        )
    vector = SteeringVector.from_bytes(raw, reference)
    with whole(Path(to)) as aside:
        aside.write_bytes(raw)  # the very bytes
    return vector


def _refused(what: str, problem: Exception) -> VectorError:
    return VectorError(
        what,
        given=f"{type(problem).__name__}: {first_line(problem)[:200]}",
        do="check the name, the revision and `hf auth login`",
    )
