"""Recipes that train the mini family: the procedural world, photographs, and one loop."""
