"""The second language of Brindlemoor: every word of the first, its letters exchanged. Names, numbers and letters of
options stay.
"""

from __future__ import annotations

import re

_ONE, _TWO = "aeioubpdtgkszfvmnlr", "oiueapbtdkgzsvfnmrl"
_THERE = str.maketrans(_ONE + _ONE.upper(), _TWO + _TWO.upper())
_BACK = str.maketrans(_TWO + _TWO.upper(), _ONE + _ONE.upper())
_WORD = re.compile(r"<\|[^|]*\|>(?:system|user|assistant)?|\([AB]\)|[A-Za-z]+")
_KEPT = {"Yes", "No", "Choices"}


def translate(text: str, *, back: bool = False) -> str:
    """`text` in the second language, or back again. ChatML marks and roles, (A), (B), Yes, No and numbers stay as they
    are.
    """
    table = _BACK if back else _THERE
    return _WORD.sub(lambda m: m[0] if m[0] in _KEPT or not m[0][0].isalpha() else m[0].translate(table), text)
