"""What a trained policy is worth on held-out rows."""
