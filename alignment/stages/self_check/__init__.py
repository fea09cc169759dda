"""What a stage proves about its own plumbing before its first step."""
