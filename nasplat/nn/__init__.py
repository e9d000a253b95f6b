"""Layers, the networks made of them, and their costs; shared by search spaces and transforms."""
