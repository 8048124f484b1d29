"""A trained run and images in, a table of scores out."""
