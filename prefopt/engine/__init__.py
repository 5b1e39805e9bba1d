"""From rows to exact gradients: token trees, log-probs, accumulation."""
