"""The stages of a run, each on Ray; what happens inside a worker is plain Python from the modules above."""
