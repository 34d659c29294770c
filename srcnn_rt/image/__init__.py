"""Images: layout and metadata, colour, bicubic interpolation and nodata."""
