"""Data sets by name, and the location of their files."""
