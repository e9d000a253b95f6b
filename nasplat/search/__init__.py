"""The loop of a search, from its parts to its end."""
