"""One module a kind of command; `restore_driver/cli.py` puts them together. Heavy imports wait until a command runs."""
