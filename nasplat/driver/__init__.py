"""The search loop: assembly of its parts, budget, cache, and replay."""
