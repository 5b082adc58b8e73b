"""Sampling: noise schedules, solvers as pure steps, guidance rules, and the values that a run is made of."""

from colorlab.sampling.guidance import classifier_free
from colorlab.sampling.loop import first_state, sample_step
from colorlab.sampling.noise import initial_noise, step_noise
from colorlab.sampling.records import StepRecord
from colorlab.sampling.schedules import NoiseSchedule
from colorlab.sampling.solvers import SOLVERS, Solver, find_solver
from colorlab.sampling.state import State

__all__ = [
    "SOLVERS",
    "NoiseSchedule",
    "Solver",
    "State",
    "StepRecord",
    "classifier_free",
    "find_solver",
    "first_state",
    "initial_noise",
    "sample_step",
    "step_noise",
]
