"""Ray Serve around the application: replicas, groups, ingress. Thin; what decides anything is in `serve_app`."""
