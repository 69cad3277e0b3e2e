"""Fine-tune an encoder on a task of texts."""
