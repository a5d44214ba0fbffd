"""Lead times: the arithmetic of their parts, and the book that learns from outcomes."""
