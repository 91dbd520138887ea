"""The mean difference at all layers as steering-vectors does it, in batches of 8."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
from peer import load
from steering_vectors import train_steering_vector
from turns import inputs, serve

work, _ = inputs()
model, tokenizer = load(work["model"])


def text(ids):
    return tokenizer.decode(ids)


samples = [(text(p), text(n)) for p, n in zip(work["positive"], work["negative"])]
for (p, _), ids in zip(samples, work["positive"]):
    assert tokenizer(p).input_ids == ids, "the text must come back as the same tokens"
back = {spot - len(ids) for spot, ids in zip(work["spot"], work["positive"])}
assert len(back) == 1, "the letter stands at the same place from the end in every item"


def capture():
    vector = train_steering_vector(
        model, tokenizer, samples, read_token_index=next(iter(back)), batch_size=8, move_to_cpu=True
    )
    return np.stack([vector.layer_activations[k].numpy() for k in range(len(vector.layer_activations))]).tolist()


serve(capture)
