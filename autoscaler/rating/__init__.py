"""What a replica is rated for: engine service models."""
