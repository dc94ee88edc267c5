"""The application: dialects, gateway, routing and engines. Ray is imported by `serve_app.app` only."""
