"""HellaSwag: the most plausible continuation of a scene."""
