"""A run: one search's directory with its resolved configuration, event log and artifacts."""
