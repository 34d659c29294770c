"""Reading and writing images: sources, sinks and file formats."""
