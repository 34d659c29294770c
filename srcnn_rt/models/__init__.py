"""What a model is: its file, its facts, and the graph that is run for it."""
