"""Widgets of colorlab."""
