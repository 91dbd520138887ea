"""Where a vector can act: the output of a block, or what enters the first one."""

from __future__ import annotations


class Site(int):
    """A place that is no block. Blocks are counted from 0 whether it is used or not; a plain -1 does not mean it."""


EMBEDDINGS = Site(-1)  # what enters block 0: layer 0 of papers that edit the input of a block
RESID_POST = "resid_post"
SITES = (RESID_POST, "embeddings")
