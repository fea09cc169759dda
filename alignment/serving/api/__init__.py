"""OpenAI's API on engines: requests, responses, limits, metrics, and the server around them."""
