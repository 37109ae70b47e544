"""What the hub fetches by itself: sources, how far each has been read, and when it is due."""
