"""Rating: service models of engines, and the capacity that follows from them."""
