"""What is kept of a row of logits, how the rest is restored, and the loss against it."""
