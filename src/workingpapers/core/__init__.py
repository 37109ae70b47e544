"""What the methods and the page both know: types, files, places."""
