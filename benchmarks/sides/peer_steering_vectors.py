"""The sweep as steering-vectors does it: a row at a time, both answers, a full pass for every layer and multiplier."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
import torch
from peer import load
from steering_vectors import SteeringVector
from turns import inputs, serve

work, _ = inputs()
model, _ = load(work["model"])
vectors = torch.from_numpy(np.load(work["vectors"]))


@torch.no_grad()
def sweep():
    spot, prompt = work["spot"][0], work["prompt"][0]
    out = np.empty((1, len(vectors), len(work["multipliers"])))
    for layer in range(len(vectors)):
        vector = SteeringVector({layer: vectors[layer]}, "decoder_block")
        for k, m in enumerate(work["multipliers"]):
            with vector.apply(model, multiplier=m, min_token_index=prompt - 1):
                said = [model(torch.tensor([work[side][0]])).logits[0, spot - 1] for side in ("positive", "negative")]
            yes, no = work["letters"][0]
            out[0, layer, k] = said[0][yes] - said[1][no]
    return out.tolist()


serve(sweep)
