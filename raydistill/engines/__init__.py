"""What runs the teacher's forward passes: token arrays in, logits out. Knows nothing of texts, pairs or Ray."""
