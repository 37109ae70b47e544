"""Long work that an administrator starts on the page, done in a process of its own."""
