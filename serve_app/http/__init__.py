"""HTTP: paths to endpoints, the one path of generating requests, status endpoints, and the rules for browsers."""
