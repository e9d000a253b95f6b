"""Latency of networks: measured, or predicted from tables."""
