"""CRIU: where it is, what it is asked, what its image files hold."""
