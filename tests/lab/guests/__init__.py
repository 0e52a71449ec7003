"""Programs that the tests bring to hosts of the lab: the product's own, with a driver that talks and places to stop."""
