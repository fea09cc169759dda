"""An OpenAI-compatible server for checkpoints, on transformers' continuous batching."""
