"""What a run will take, told before any weight is loaded: memory by part, tokens, arithmetic."""
