"""The one training loop, and embeddings trained elsewhere."""
