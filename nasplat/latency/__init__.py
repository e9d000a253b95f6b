"""How long networks take: measured, and predicted from tables."""
