"""What the claims of speed are measured with; nothing here is installed."""
