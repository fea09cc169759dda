"""PPO as a transformers Trainer."""
