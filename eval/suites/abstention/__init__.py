"""Does a checkpoint say that it does not know where nobody can, and only there?"""
