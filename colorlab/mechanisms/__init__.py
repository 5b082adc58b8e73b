"""Mechanisms: one idea of one paper in one file, with its phase, switch, parameters and exhibits."""
