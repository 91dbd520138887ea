"""Operators: how a vector changes the residual stream. One file each; the laws are kept here, once, for all of them."""

from trimtab.steering.operators.ablate import Ablate
from trimtab.steering.operators.add import Add
from trimtab.steering.operators.affine import Affine
from trimtab.steering.operators.base import Multiplier, Operator
from trimtab.steering.operators.clamp import Clamp
from trimtab.steering.operators.rotate import Rotate

__all__ = ["Ablate", "Add", "Affine", "Clamp", "Multiplier", "Operator", "Rotate"]
