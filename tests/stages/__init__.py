"""The stages on real Ray. A package, so that its Ray ends with its tests."""
