"""Layers, networks and their costs, shared by search spaces and transforms."""
