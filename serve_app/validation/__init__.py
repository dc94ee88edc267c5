"""Checks a whole serve_config.yaml before anything starts. Knows no Ray and no engine."""
