"""Programs that run inside the machines."""
