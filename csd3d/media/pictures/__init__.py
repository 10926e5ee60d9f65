"""One picture as a file: levels, read, write."""
