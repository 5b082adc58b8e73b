"""Runs: a path of states, the tree of all paths of one work, and what they cost."""
