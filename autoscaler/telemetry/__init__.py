"""What passes tell the outside: one log line a decision, in words or as JSON."""
