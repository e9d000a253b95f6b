"""What is kept on disk: files, states, the event log, artifacts."""
