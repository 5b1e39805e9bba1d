"""The reference of a run: its log-probs, scored once."""
