"""What a completion earns: rewards as plain functions that render requests and read replies."""
