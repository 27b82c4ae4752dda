"""Learn from a stream: stepwise EM, buffered rows, detection of changes."""
