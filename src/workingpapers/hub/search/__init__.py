"""Finding papers by their words and by what they mean."""
