"""Weights of other systems."""
