"""Runs the application on Ray Serve: replicas, groups, ingress. All decisions are made in `serve_app`."""
