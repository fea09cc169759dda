"""The rows that the data stages of a run made: read from their folders, and as a section of the page."""
