"""The first screen of a report: what was trained on what, whether each stage helped, and what to do next."""
