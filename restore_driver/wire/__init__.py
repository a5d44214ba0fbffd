"""The wire contract: requests, results, reasons and the replica spec, in pydantic only."""
