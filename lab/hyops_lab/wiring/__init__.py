"""How hyops itself is put on the lab's hosts: keys, users, configuration and units, one file per kind of host."""
