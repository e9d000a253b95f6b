"""Storage on disk: files, states, the event log, artifacts."""
