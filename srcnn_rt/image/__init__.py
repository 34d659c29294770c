"""What an image is, apart from where it comes from: size, layout, samples, colour, nodata."""
