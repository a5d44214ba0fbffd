"""One attempt: its phases, the walk through them, the journal and the recovery after a crash."""
