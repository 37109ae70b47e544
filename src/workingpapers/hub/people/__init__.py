"""People: sign-in, votes, comments, reading lists, authorship, and those who look after it."""
