"""How does a scene go on? HellaSwag."""
