"""Networks of Ghost modules."""
