"""Makes what `serve_app` ships: the embedded demo model and the task classifier's weights. Nothing in `serve_app` imports it."""
