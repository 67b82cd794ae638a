"""Cost per event, ours beside a bare loop, in one run on one machine: `make bench`."""
