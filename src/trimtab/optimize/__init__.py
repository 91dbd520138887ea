"""Optimized vectors: objectives, constraints, noise and stoppers that compose, and the engine that solves many of them
at once.

    problem = Problem(promote("Who are you?", "Arr, a pirate!"), Place((10,)), (Ball(20.0),))
    found = optimize(lm, [problem])[0]
    with steer(lm, found.intervention(problem.place)): ...

Source: Dunefsky & Cohan, "One-shot Optimized Steering Vectors Mediate Safety-relevant Behaviors in LLMs" (COLM 2025).
"""

from trimtab.optimize.constraints import Ball, Constraint, Factors, Orthogonal, Sphere
from trimtab.optimize.engine import optimize
from trimtab.optimize.geometry import Path, angles, cosines, curvature, detection, path, plane, sensitivity
from trimtab.optimize.losses import losses_in_full
from trimtab.optimize.minibatch import Epoch, Trained, Training, train
from trimtab.optimize.noise import AntiCorrelated, Ascent, Gaussian, Noise, Tangent
from trimtab.optimize.objectives import (
    COLDNESS,
    Change,
    Consistent,
    Echo,
    Match,
    Objective,
    Promote,
    Satisfice,
    Suppress,
    Term,
    Unlearn,
    anchor,
    in_contexts,
    promote,
    suppress,
)
from trimtab.optimize.predictors import signals
from trimtab.optimize.preferences import Prefer
from trimtab.optimize.problems import Descent, Place, Problem, Result, Start
from trimtab.optimize.search import Candidate, likely_completions, losses_of, swapped_choice, target_from
from trimtab.optimize.shorten import shorten
from trimtab.optimize.stopping import History, MaxSteps, Plateau, Stopper, Target

__all__ = [
    "COLDNESS",
    "AntiCorrelated",
    "Ascent",
    "Ball",
    "Change",
    "Consistent",
    "Constraint",
    "Descent",
    "Echo",
    "Factors",
    "Gaussian",
    "History",
    "Match",
    "MaxSteps",
    "Noise",
    "Objective",
    "Orthogonal",
    "Place",
    "Prefer",
    "Plateau",
    "Promote",
    "Result",
    "Problem",
    "Satisfice",
    "Sphere",
    "Start",
    "Stopper",
    "Suppress",
    "Tangent",
    "Target",
    "Term",
    "Trained",
    "Training",
    "Unlearn",
    "anchor",
    "in_contexts",
    "train",
    "Epoch",
    "losses_in_full",
    "optimize",
    "promote",
    "suppress",
    "Candidate",
    "likely_completions",
    "losses_of",
    "shorten",
    "swapped_choice",
    "target_from",
    "Path",
    "angles",
    "cosines",
    "curvature",
    "detection",
    "path",
    "plane",
    "sensitivity",
    "signals",
]
