"""Compare configs: train each with several seeds, and say what the difference is worth."""
