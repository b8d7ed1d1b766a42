"""Recipes and the stage graph."""
