"""Metrics: what is read off the model's log-probabilities of a pair. One file each; all of them share one replay."""

from trimtab.evaluation.metrics.base import Metric, Reading, is_choice
from trimtab.evaluation.metrics.kl import KL
from trimtab.evaluation.metrics.likelihood import Likelihood
from trimtab.evaluation.metrics.matching import Matching
from trimtab.evaluation.metrics.outside_mass import OutsideMass
from trimtab.evaluation.metrics.propensity import Propensity

__all__ = ["KL", "Likelihood", "Matching", "Metric", "OutsideMass", "Propensity", "Reading", "is_choice"]
