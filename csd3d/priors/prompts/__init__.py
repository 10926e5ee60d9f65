"""What a small prior understands: a vocabulary of whole sentences, or of words; sentences as embeddings."""
