"""Who says which of two answers to a prompt is better."""
