"""Export: an architecture with its weights as files that other tools read, verified against torch."""
