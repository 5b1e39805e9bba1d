"""The benchmark: every loss and its contenders on tasks whose truth is known, and what the numbers allow one to say."""
