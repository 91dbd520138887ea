"""Metrics: what is read off the model's log-probabilities of a pair. One file each; all of them share one replay."""

from trimtab.metrics.base import Metric, Reading, is_choice
from trimtab.metrics.kl import KL
from trimtab.metrics.likelihood import Likelihood
from trimtab.metrics.outside_mass import OutsideMass
from trimtab.metrics.propensity import Propensity

__all__ = ["KL", "Likelihood", "Metric", "OutsideMass", "Propensity", "Reading", "is_choice"]
