"""The stages on real Ray."""
