"""Export of an architecture with its weights to files for other tools, verified against torch."""
