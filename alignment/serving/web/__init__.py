"""Chat in a browser: pages on the server's application, blind comparisons, and a file of votes."""
