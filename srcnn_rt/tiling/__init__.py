"""How an image is cut into windows and stitched again."""
