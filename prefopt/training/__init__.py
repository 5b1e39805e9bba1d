"""The trainer: any loss over any causal language model."""
