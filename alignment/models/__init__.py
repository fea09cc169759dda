"""Model architectures defined here, in transformers' conventions."""
