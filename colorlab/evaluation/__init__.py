"""Metrics with intervals, and the protocols behind the figures of the model cards."""
