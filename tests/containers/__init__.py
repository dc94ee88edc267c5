"""A real cluster of containers, by podman and runc. Started by `make cluster-test`; needs root and Debian's registries."""
