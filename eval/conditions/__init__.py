"""The conditions of an eval run: its options, the chat template, and the items that fit into the context."""
