"""Samplers: what training draws at each step and how much it weighs, by a prior or in proportion to scores."""
