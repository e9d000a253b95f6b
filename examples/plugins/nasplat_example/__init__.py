"""The minimal plug-in of each kind, one module each."""
