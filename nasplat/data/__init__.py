"""Where data lies, and data sets by name."""
