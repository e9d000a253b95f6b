"""Surrogates: models of the objectives fitted to few measurements, and their uses."""
