"""Does a vector belong to a model? Another shape is refused, other weights are told."""

from __future__ import annotations

from trimtab.errors import VectorError
from trimtab.steering.vector import SteeringVector


def other_weights(vector: SteeringVector, *, weights: str, model: str) -> str | None:
    """What to say where a vector meets a model of its shape that is not the one it was learned on; None if it is that
    one.
    """
    made = vector.made
    same = made.weights == weights if made.weights and weights else made.model in ("", model)
    if same:
        return None
    name = made.model or "an unknown model"
    if made.weights and weights:
        model += ", whose weights are others"
    return f"a vector learned on {name} is applied to {model}: measure it there before you trust it"


def check_fits(vector: SteeringVector, *, width: int, n_layers: int, fingerprint: str, model: str) -> None:
    """Refuse a vector that was made for another model.

    Raises:
        VectorError: other width, a layer the model does not have, or learned on a model of another shape.
    """
    made_on = vector.made.model or "an unknown model"
    if vector.width != width:
        raise VectorError(
            f"this vector does not fit {model}",
            given=f"width {vector.width}, learned on {made_on}",
            expected=f"width {width}",
            do=f"use the model it was learned on (--model {made_on}), or learn it on this one",
        )
    if max(vector.layers) >= n_layers:
        raise VectorError(f"layer out of range for {model}", given=max(vector.layers), expected=f"0..{n_layers - 1}")
    if vector.made.fingerprint not in ("", fingerprint):
        raise VectorError(
            f"this vector was learned on another model than {model}",
            given=made_on,
            expected=model,
            do=(
                "learn it again on this model; or, between relatives (a fine-tune, a model with added tokens), "
                "carry it over: trimtab.steering.transfer.onto(vector, lm)"
            ),
        )
