"""The GPT architecture, and loading, adapting, merging and converting of models and checkpoints."""
