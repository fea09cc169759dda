"""Where rows come from, and how they are brought to one format."""
