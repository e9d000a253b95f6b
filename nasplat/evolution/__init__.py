"""Selection among architectures, and credit for their blocks."""
