"""The artifact: a directory that holds a replica, with a manifest that says what it is and digests that prove it."""
