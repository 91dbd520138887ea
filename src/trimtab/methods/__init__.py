"""learn(): a method turns data into a steering vector. One file per method; what they share is in `base.py`, what
contrast methods learn from in `contrast.py`.
"""

from trimtab.methods.base import ContrastMethod, FewShot, Fit, Method
from trimtab.methods.contrast import Activations, activations, paired_rows
from trimtab.methods.discover import Discover
from trimtab.methods.freeform import Freeform
from trimtab.methods.label_shuffled import LabelShuffled
from trimtab.methods.learning import learn
from trimtab.methods.mean_diff import MeanDiff
from trimtab.methods.one_shot import OneShot
from trimtab.methods.pca import PCA
from trimtab.methods.preference import Preference
from trimtab.methods.probe import Probe
from trimtab.methods.random_direction import RandomDirection

__all__ = [
    "PCA",
    "Activations",
    "ContrastMethod",
    "Discover",
    "FewShot",
    "Fit",
    "Freeform",
    "LabelShuffled",
    "MeanDiff",
    "Method",
    "OneShot",
    "Preference",
    "Probe",
    "RandomDirection",
    "activations",
    "learn",
    "paired_rows",
]
