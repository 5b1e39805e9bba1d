"""Reference log-probs."""
