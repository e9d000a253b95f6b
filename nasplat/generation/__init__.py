"""Training of generators against discriminators, and how far what they make is from data."""
