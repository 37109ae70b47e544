"""The pages, the feeds and the JSON: three ways to show the same entries."""
