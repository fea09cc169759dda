"""Does a checkpoint answer tinyworld's test questions? One task a family, and their macro mean."""
