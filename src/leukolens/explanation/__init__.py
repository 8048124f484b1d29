"""A trained run and cells in, pictures of where its score is sensitive out."""
