"""Hidden states of both completions at all layers as repeng collects them, in batches of 8, then their mean
difference.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
from peer import load
from repeng.extract import batched_get_hiddens
from turns import inputs, serve

work, _ = inputs()
model, tokenizer = load(work["model"])
layers = list(range(model.config.num_hidden_layers))
# repeng reads the last token: the text is cut behind the letter
cut = lambda side: [tokenizer.decode(ids[: k + 1]) for ids, k in zip(work[side], work["spot"])]  # noqa: E731
texts = [t for pair in zip(cut("positive"), cut("negative")) for t in pair]


def capture():
    found = batched_get_hiddens(model, tokenizer, texts, layers, 8)
    mean = np.stack([(found[k][0::2] - found[k][1::2]).mean(0) for k in layers])
    mean[-1] = np.nan  # behind the final norm: another space, not compared
    return mean.tolist()


serve(capture)
