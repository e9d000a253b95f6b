"""Encodings of architectures for predictors."""
